/* The tiers, in ascending order: a row goes to the first that takes it. `ALA_TIERS(X)` calls
   X(kernel, name, lanes, elements, threads, map) for each of them and map: `lanes` threads work on
   a row, each on `elements` of it, in blocks of `threads` at most. A row has lanes * elements
   classes at most; any number where elements is ANY.

   Elements are rounded up to whole vectors of 16 bytes. `TIERS` in src/cuda has the same; a test in
   tests/cuda holds it to this list.

   What a lane keeps follows from the registers that leave an SM half its threads: up to 32
   elements, and 16 where their maps take registers too. Four lanes a row have fewer: head and tail
   are four times as many a lane. */
#ifndef ALA_TIERS_H
#define ALA_TIERS_H

/* clang-format off */
#define ALA_TIERS(X)                                     \
    X(packed_rows,  packed,     1, 24,  128, uniform)    \
    X(packed_rows,  packed,     1, 16,  128, per_class)  \
    X(register_row, row4x16,    4, 16,  128, uniform)    \
    X(register_row, row8x8,     8,  8,  128, per_class)  \
    X(register_row, row4,       4, 28,  128, uniform)    \
    X(register_row, row16x8,   16,  8,  128, per_class)  \
    X(register_row, row8x24,    8, 24,  128, uniform)    \
    X(register_row, row32x8,   32,  8,  128, per_class)  \
    X(register_row, row8x32,    8, 32,  128, uniform)    \
    X(register_row, row16x24,  16, 24,  128, uniform)    \
    X(register_row, row16x32,  16, 32,  128, uniform)    \
    X(register_row, row32x16,  32, 16,  128, per_class)  \
    X(register_row, row32x24,  32, 24,  128, uniform)    \
    X(register_row, row32x32,  32, 32,  128, uniform)    \
    X(register_row, row64x16,  64, 16,   64, per_class)  \
    X(register_row, row64x24,  64, 24,   64, uniform)    \
    X(register_row, row64x32,  64, 32,   64, uniform)    \
    X(register_row, row128x16, 128, 16, 128, per_class)  \
    X(register_row, row128x24, 128, 24, 128, uniform)    \
    X(register_row, row128x32, 128, 32, 128, uniform)    \
    X(register_row, row256x16, 256, 16, 256, per_class)  \
    X(register_row, row256x24, 256, 24, 256, uniform)    \
    X(register_row, row256x32, 256, 32, 256, uniform)    \
    X(register_row, row512x16, 512, 16, 512, per_class)  \
    X(register_row, row512x24, 512, 24, 512, uniform)    \
    X(register_row, row512x32, 512, 32, 512, uniform)    \
    X(staged_row,   staged,    256, ANY, 256, uniform)   \
    X(staged_row,   staged,    256, ANY, 256, per_class) \
    X(streamed_row, streamed,  512, ANY, 512, uniform)   \
    X(streamed_row, streamed,  512, ANY, 512, per_class)
/* clang-format on */

#endif
