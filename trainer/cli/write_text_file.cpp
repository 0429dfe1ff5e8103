#include <cerrno>
#include <fstream>
#include <stdexcept>
#include <system_error>

#include "trainer/cli/commands.h"

namespace gsa {

void write_text_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::trunc | std::ios::binary);
  file << text;
  file.close();
  if (!file) {
    throw std::runtime_error(path +
                             ": cannot be written: " + std::generic_category().message(errno));
  }
}

}  // namespace gsa
