/* Integers of fixed width. A compiler that runs beside the program (NVRTC) brings no standard
   headers. */
#ifndef ALA_FIXED_WIDTH_H
#define ALA_FIXED_WIDTH_H

#ifdef __CUDACC_RTC__
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned long long uintptr_t;
#else
#include <stdint.h>
#endif

#endif
