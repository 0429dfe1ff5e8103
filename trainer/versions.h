// Versions of the program and of the libraries it runs with, for checkpoints and `--version`.
#pragma once

#include <map>
#include <string>

namespace gsa {

std::map<std::string, std::string> library_versions();

}  // namespace gsa
