// RunProgram: a program run to its end, with what it wrote.
#pragma once

#include <string>
#include <vector>

#include "tests/support/child_process.h"
#include "tests/support/scratch_directory.h"

namespace muond {

struct Ran {
  int code = 0;  // or -signal
  std::string out, err;
};

inline Ran RunProgram(const std::vector<std::string>& argv) {
  ScratchDirectory scratch;
  ChildProcess process(argv, scratch / "err", scratch / "out");
  const int code = process.Wait();
  return {code, ReadWhole(scratch / "out"), ReadWhole(scratch / "err")};
}

}  // namespace muond
