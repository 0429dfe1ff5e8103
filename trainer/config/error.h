// The error of a configuration or command line that cannot be used: exit code 2.
#pragma once

#include <stdexcept>

namespace gsa {

class ConfigError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace gsa
