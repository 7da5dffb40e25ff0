// Every kernel, by name: ala_<tier>_<type>_<map>, and ala_recipe_<tier>_<type>_<map> for steps with
// what terms.cuh has. The list is the only place where types meet tiers. With ALA_TYPE and ALA_MAP
// set, those of one type and one map, and with ALA_RECIPE the recipe's. ALA_SHARD gives the two
// halves of a step over some of the classes, ala_shard_<half>_<type>_<map>.
//
// To read them: abi.h says what a kernel is given, row.cuh is the mathematics, dev/unfused.cuh
// takes its eight steps one by one, and gives them the numbers that every fused tier marks its own
// with. streamed_row.cuh is the plainest of those; then packed_rows.cuh, register_row.cuh with
// span.cuh and element.cuh below it, and staged_row.cuh. finish.cuh is step 8 of them all,
// careful.cuh solves the rows that they leave, count.cuh comes before a mean that needs a count.
// shard.cuh says what shards tell one another, shard_partial.cuh and shard_finish.cuh are the two
// halves.
#include "fixed_width.h"

#include "count.cuh"
#include "kernel.h"
#include "packed_rows.cuh"
#include "register_row.cuh"
#include "staged_row.cuh"
#include "streamed_row.cuh"
#include "tiers.h"
// In no unit but its own: what it declares would be in the other kernels' PTX too.
#if defined(ALA_SHARD) || !defined(ALA_TYPE)
#include "shard_finish.cuh"
#include "shard_partial.cuh"
#endif

// The fused tiers.
[[maybe_unused]] constexpr int ANY = 0;

template <typename T, int ELEMENTS>
constexpr int WHOLE_VECTORS = (ELEMENTS + ala::WIDTH<T> - 1) / ala::WIDTH<T> * ala::WIDTH<T>;

#define PLAIN(type, kernel, name, lanes, elements, threads, map) \
    KERNEL(                                                      \
        ala_##name##_##type##_##map, threads,                    \
        ala::kernel<TYPE_##type, MAP_##map, lanes, WHOLE_VECTORS<TYPE_##type, elements>, threads>)
#define RECIPE(type, kernel, name, lanes, elements, threads, map) \
    RECIPE_KERNEL(                                                \
        ala_recipe_##name##_##type##_##map, threads,              \
        ala::kernel<                                              \
            TYPE_##type, RECIPE_MAP_##map, lanes, WHOLE_VECTORS<TYPE_##type, elements>, threads>)

#define SHARD_HALF(type, half, map) \
    SHARD_KERNEL(                   \
        ala_shard_##half##_##type##_##map, 512, ala::shard_##half<TYPE_##type, MAP_##map, 512>)
#define SHARD_OF(type, map)        \
    SHARD_HALF(type, partial, map) \
    SHARD_HALF(type, finish, map)

#ifdef ALA_RECIPE
#define FUSED RECIPE
#else
#define FUSED PLAIN
#endif

#ifdef ALA_SHARD
#define SHARD_OF_UNIT(type, map) SHARD_OF(type, map)
SHARD_OF_UNIT(ALA_TYPE, ALA_MAP)
#elif defined(ALA_TYPE)
// A unit of one type and one map, as they are loaded: the tiers of the other map are nothing.
#define NOTHING(...)
#define IN_uniform_uniform FUSED
#define IN_uniform_per_class NOTHING
#define IN_per_class_uniform NOTHING
#define IN_per_class_per_class FUSED
#define IN_UNIT_OF(unit, type, kernel, name, lanes, elements, threads, map) \
    IN_##unit##_##map(type, kernel, name, lanes, elements, threads, map)
#define IN_UNIT(unit, type, ...) IN_UNIT_OF(unit, type, __VA_ARGS__)
#define FUSED_OF_UNIT(...) IN_UNIT(ALA_MAP, ALA_TYPE, __VA_ARGS__)
ALA_TIERS(FUSED_OF_UNIT)
#else
#define FUSED_OF_EVERY_TYPE(...) EVERY_TYPE(FUSED, __VA_ARGS__)
ALA_TIERS(FUSED_OF_EVERY_TYPE)
#undef FUSED
#define FUSED RECIPE
ALA_TIERS(FUSED_OF_EVERY_TYPE)
EVERY_TYPE(SHARD_OF, uniform)
EVERY_TYPE(SHARD_OF, per_class)
#endif

#if !defined(ALA_RECIPE) && !defined(ALA_SHARD)
KERNEL(ala_count, 256, ala::count_rows<256>)
#endif
#if defined(ALA_RECIPE) || !defined(ALA_TYPE)
RECIPE_KERNEL(ala_recipe_count, 256, ala::count_rows<256>)
#endif
#if defined(ALA_SHARD) || !defined(ALA_TYPE)
SHARD_KERNEL(ala_shard_count, 256, ala::count_rows<256>)
#endif
