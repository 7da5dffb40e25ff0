/* What crosses from host to device, once. `src/cuda/abi.rs` is generated from this file; a test
   catches drift. Slopes and biases are in units of log2: the kernels take exp2 of them. */
#ifndef ALA_ABI_H
#define ALA_ABI_H

#include "fixed_width.h"

/* The constants of a class as target: u_y = (slope + extra_slope) x_y + bias, with the class's own
   slope. */
typedef struct AlaTarget {
    float extra_slope;
    float bias;
    float gradient_slope; /* G_y, in natural units */
    float weight;         /* w_y */
} AlaTarget;

/* u_j = slope x_j + bias off the target. */
typedef struct AlaAffine {
    float slope;
    float bias;
} AlaAffine;

/* What all classes have together, behind AlaTarget[classes]. */
typedef struct AlaClasses {
    double total_weight; /* their weights added up */
    float common_weight; /* of each of them, where all have the same */
    float reserved;
} AlaClasses;

/* A class's map off the target with its weight, for recipes that smooth labels. */
typedef struct AlaWeighed {
    float slope;
    float bias;
    float weight;
    float slope_weight; /* slope times weight */
} AlaWeighed;

/* A class's maps once more, unrounded, for rows whose exponents f32 cannot tell apart. */
typedef struct AlaExact {
    double slope; /* off the target */
    double bias;
    double target_slope; /* where it is the target: both slopes in one */
    double target_bias;
} AlaExact;

/* No row has gone wrong. */
#define ALA_NO_ROW 0xffffffffffffffffull

/* What a step leaves for the host, and what the last block of a launch needs. One a workspace. */
typedef struct AlaState {
    double loss;         /* reduced as the parameters say */
    double total_weight; /* of the counted rows */
    uint64_t counted_rows;
    uint64_t bad_row;  /* first bad row since the state was last cleared, or ALA_NO_ROW; sticky */
    int64_t bad_label; /* its label, sign-extended (u64 labels: as their bits) */
    uint64_t step_bad_row; /* first bad row of the launch under way */
    uint32_t blocks_done;  /* of the launch under way */
    uint32_t tickets;      /* given out to the blocks of that launch, where several share a row */
    uint64_t disturbed; /* whether blocks of two launches met here, or one waited in vain; sticky */
    double divisor;     /* where ala_count ran: what the mean divides by */
    float rounded_divisor; /* the same */
    uint32_t bad_what;     /* ALA_BAD_*: what is wrong with the bad row */
} AlaState;

/* AlaState::bad_what. Of a number AlaState::bad_label has the bits, of its f32. */
#define ALA_BAD_LABEL 0u
#define ALA_BAD_SECOND_LABEL 1u
#define ALA_BAD_LAMBDA 2u
#define ALA_BAD_WEIGHT 3u
/* A label is among the classes of no shard, or of several: in the bits above, of how many. */
#define ALA_BAD_SHARDS 4u
#define ALA_BAD_BITS 8u

/* Blocks of a launch, at most. */
#define ALA_MOST_BLOCKS 4096u

/* What the rows of one block add up to. */
typedef struct AlaTotals {
    double loss;
    double weight; /* of the block's rows that have a target; their number follows */
    uint64_t counted;
} AlaTotals;

/* The same in memory, for the last block, in halves of 16 bytes. The second is read where rows are
   counted. */
typedef struct AlaBlockTotals {
    double loss;
    uint64_t launch; /* AlaParams::launch of its launch */
    double weight;
    uint64_t counted;
} AlaBlockTotals;

/* One block's part of a row: its maximum u_j off the target, their sum of exp2(u_j - maximum). */
typedef struct AlaPart {
    float max;
    float sum;
    uint32_t outdone; /* whether a logit in it beats the target's */
    uint32_t reserved;
} AlaPart;

/* What a recipe's kernels tell beside it: of the part's classes off the targets the sum of w_j (u_j
   - AlaPart::max) and of w_j, and the class of the largest logit with that logit. */
typedef struct AlaRecipePart {
    float exponents;
    float weight;
    float best;
    uint32_t best_class;
} AlaRecipePart;

/* What the blocks of a launch tell one another. One for each workspace, behind the state. */
typedef struct AlaBlocks {
    AlaBlockTotals totals[ALA_MOST_BLOCKS];
    /* Of a group's rows by turns: who is a row ahead must not write over the last. */
    AlaPart parts[2][ALA_MOST_BLOCKS];
    AlaRecipePart recipe_parts[2][ALA_MOST_BLOCKS];
    /* Parts that a group's blocks have written, over all its rows; 0 between launches. */
    uint32_t arrived[ALA_MOST_BLOCKS];
} AlaBlocks;

/* AlaParams::label_type */
#define ALA_LABEL_U8 0u
#define ALA_LABEL_I32 1u
#define ALA_LABEL_U32 2u
#define ALA_LABEL_I64 3u

/* AlaParams::reduction */
#define ALA_REDUCTION_SUM 0u /* also where nothing is reduced: the rows' sum is only watched */
#define ALA_REDUCTION_MEAN 1u

/* Bits of AlaParams::flags. */
#define ALA_HAS_IGNORE 1u /* ignore_label is to be looked for */
#define ALA_COUNTED                                                                               \
    2u                  /* what a mean divides by is on the device: given, or in the state, where \
                           ala_count left it with total_weight and counted_rows */
#define ALA_WEIGHTED 4u /* not every w_y is 1 */
#define ALA_UPSTREAM_PER_ROW 8u /* upstream is [N], else one number */
#define ALA_FOCAL 16u           /* focal_gamma is to be used */
#define ALA_OUT_OF_PHASE                                                                     \
    32u                 /* a gradient's row may begin elsewhere in 16 bytes than the logits' \
                         */
#define ALA_BY_ROWS 64u /* a mean divides by the rows that count, not by their weights */
#define ALA_GIVEN 128u  /* what it divides by is given: ala_count did not run */

/* Kernel parameter. Strides are in elements; every pointer is a device address; 0 where something
   is left out. */
typedef struct AlaParams {
    uint64_t logits;     /* [rows, classes], row stride logits_stride */
    uint64_t gradient;   /* the same shape, or 0; may be the logits' address and stride */
    uint64_t labels;     /* [rows] */
    uint64_t targets;    /* AlaTarget[classes] */
    uint64_t others;     /* AlaAffine[classes]; unused where the slope is uniform */
    uint64_t exact;      /* AlaExact[classes] */
    uint64_t upstream;   /* float, or float[rows]; 0 stands for 1 */
    uint64_t row_losses; /* float[rows]; never 0 */
    uint64_t hits;       /* uint8_t[rows], or 0 */
    uint64_t loss;       /* float, or 0: AlaState::loss once more */
    uint64_t divisor;    /* float, or 0: where ala_count leaves what a mean divides by */
    uint64_t given;      /* float, with ALA_COUNTED: what a mean divides by, in the state or the
                            caller's (ALA_GIVEN) */
    uint64_t state;      /* AlaState */
    uint64_t blocks;     /* AlaBlocks */
    uint64_t rows;
    uint64_t logits_stride;
    uint64_t gradient_stride;
    int64_t ignore_label; /* -1, which is no class either, where there is none */
    uint32_t classes;
    uint32_t label_type; /* ALA_LABEL_* */
    uint32_t reduction;  /* ALA_REDUCTION_* */
    uint32_t flags;
    float slope; /* of every class off the target, where it is uniform */
    float focal_gamma;
    float gradient_factor;  /* the gradient's scale, divided by the rows where a mean is over all */
    uint32_t parts;         /* blocks that share a row, where the tier splits rows */
    uint32_t part_vectors;  /* whole 16-byte vectors of a row that each of them takes, at most */
    uint32_t launch;        /* its number, not that of any other launch that may be under way */
    float skipped_upstream; /* nothing is done where upstream[0] is this; NaN is never */
    uint32_t rows_32;       /* rows, at most 2^32 - 1: a conversion would be an instruction more */
    uint32_t sure_rows;     /* the same; 0 where skipped_upstream is a number */
} AlaParams;

/* Kernel parameter of a recipe's kernels: a step with anything below. */
typedef struct AlaRecipe {
    AlaParams step;
    uint64_t second_labels; /* [rows], or 0: rows have one label */
    uint64_t lambda;        /* float[rows], or 0: lambda_of_all */
    uint64_t row_weights;   /* float[rows], or 0: 1 */
    uint64_t predictions;   /* uint32_t[rows], or 0 */
    uint64_t class_rows;    /* uint64_t[classes], or 0: rows by first label, added to */
    uint64_t class_hits;    /* the same of hits; 0 where class_rows is */
    uint64_t weighed;       /* AlaWeighed[classes]; unused where the slope is uniform */
    uint64_t all_classes;   /* AlaClasses */
    float lambda_of_all;
    float own;                  /* 1 - epsilon, of label smoothing */
    float each;                 /* epsilon / classes; 0 where labels are not smoothed */
    uint32_t second_label_type; /* ALA_LABEL_* */
    uint32_t reserved;
} AlaRecipe;

/* AlaShard::columns: what a record has besides pivot, sum and offset. */
#define ALA_SHARD_WEIGHTS 1u /* the weights of the targets' classes */
#define ALA_SHARD_MIXED 2u   /* the second target, and both as classes like any other */
#define ALA_SHARD_TOP1 4u    /* the largest logit and its class */

/* Kernel parameter of the two halves of a step over some of the classes. In `recipe` the number of
   classes, labels and running counts are of all classes; logits, gradient and the class table are
   of the shard's own. */
typedef struct AlaShard {
    AlaRecipe recipe;
    uint64_t records;  /* float[rows, record_len]: written by the first half */
    uint64_t gathered; /* float[shards, rows, record_len]: read by the second */
    double slope;      /* what pivots are multiplied by: the same on all shards, rounded as the */
                       /* classes' slopes are */
    double inverse_slope; /* 1 / slope, nearly */
    double exact_slope;   /* the same as `slope`, unrounded */
    double bias;          /* what the biases of the class table count from */
    uint32_t shards;
    uint32_t first_class;
    uint32_t classes; /* the shard's own */
    uint32_t record_len;
    uint32_t columns;    /* ALA_SHARD_* */
    float common_weight; /* of every class, without ALA_SHARD_WEIGHTS */
} AlaShard;

/* Where the unfused baseline leaves what its steps tell one another. */
typedef struct AlaScratch {
    uint64_t values;     /* float[rows, classes] */
    uint64_t row_values; /* float[2, rows]: maximum and sum */
} AlaScratch;

#endif
