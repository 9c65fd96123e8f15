/* The lanes of the instruction set that is being compiled for: GF_TARGET is the name of a file of this folder. */
#ifndef GGUFFAST_LANES_H
#define GGUFFAST_LANES_H

#ifndef GF_TARGET
#define GF_TARGET portable
#endif

#ifdef __FAST_MATH__
#error "the bits of a block are those of IEEE arithmetic in the order of the program: compile without -ffast-math"
#endif

#define GF_TEXT(...) #__VA_ARGS__
#define GF_TEXT_OF(...) GF_TEXT(__VA_ARGS__)
#include GF_TEXT_OF(GF_TARGET.h)

#endif
