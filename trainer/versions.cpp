#include "trainer/versions.h"

namespace gsa {

std::map<std::string, std::string> library_versions() {
  return {{"gsa", GSA_VERSION}, {"compiler", __VERSION__}};
}

}  // namespace gsa
