#include "tests/fuzz/support.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

namespace gsa::fuzz {
namespace {

namespace fs = std::filesystem;

class ScratchFolder {
 public:
  ScratchFolder() {
    const fs::path memory = "/dev/shm";
    const fs::path parent = fs::is_directory(memory) ? memory : fs::temp_directory_path();
    std::string pattern = (parent / "gsa-fuzz-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      throw std::runtime_error("no temporary folder can be made: " + pattern);
    }
    path = pattern;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  fs::path path;
};

}  // namespace

const fs::path& scratch_folder() {
  static const ScratchFolder folder;
  return folder.path;
}

fs::path scratch_file(const std::string& name, Bytes bytes) {
  fs::path path = scratch_folder() / name;
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text_of(bytes);
  return path;
}

void require(bool condition, const char* what) {
  if (!condition) {
    std::fprintf(stderr, "a reader broke its word: %s\n", what);
    std::abort();
  }
}

const std::vector<Target>& targets() {
  static const std::vector<Target> all = {{"config", config},     {"index", index},
                                          {"shard", shard},       {"documents", documents},
                                          {"megatron", megatron}, {"metrics", metrics},
                                          {"manifest", manifest}, {"rank_file", rank_file},
                                          {"products", products}, {"sentencepiece", sentencepiece}};
  return all;
}

}  // namespace gsa::fuzz
