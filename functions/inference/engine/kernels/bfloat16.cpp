// Products of bfloat16 with sums in float32, by the CPU's own instructions. Compiled for CPUs that have them.
#include "bfloat16.h"

namespace KERNELS {

#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)
extern const Bfloat16Products bfloat16{TEXT(KERNELS), packed_bytes, pack, multiply};

}  // namespace KERNELS
