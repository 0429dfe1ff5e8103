// One target as a program of libFuzzer: GSA_FUZZ_TARGET is its function.
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  gsa::fuzz::GSA_FUZZ_TARGET({data, size});
  return 0;
}
