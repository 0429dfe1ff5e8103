// Versions of the program and of what it runs with, for checkpoints (which add HDF5's) and
// `--version`.
#pragma once

#include <map>
#include <string>

namespace gsa {

std::map<std::string, std::string> library_versions();

}  // namespace gsa
