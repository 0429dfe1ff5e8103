// Reads golden values: HDF5 files with inputs, outputs and gradients of an operation
// (gsa_op_*.h5) or of a whole model (gsa_model_*.h5), all handed out as doubles.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace gsa::test {

struct GoldenArray {
  std::vector<int64_t> shape;
  std::vector<double> values;  // row-major; integers too, exactly
};

// One file, open for reading. Its members throw std::runtime_error with the file and the name of
// what is missing or cannot be read.
class GoldenFile {
 public:
  explicit GoldenFile(const std::filesystem::path& path);
  ~GoldenFile();
  GoldenFile(GoldenFile&&) noexcept;
  GoldenFile& operator=(GoldenFile&&) noexcept;

  // "inputs/q", "params/model.norm.weight"
  bool has(const std::string& name) const;
  GoldenArray read(const std::string& name) const;
  // The names of the arrays in a group ("params"), without the group, sorted.
  std::vector<std::string> names(const std::string& group) const;

  // Attributes of the file itself. Numbers and flags (1 or 0) as doubles.
  bool has_attribute(const std::string& name) const;
  double attribute(const std::string& name) const;

 private:
  struct Handle;
  std::unique_ptr<Handle> handle_;
};

// The folder of the golden files: $GSA_GOLDEN_DIR, or tests/golden of this project if it is not set
// or empty.
std::filesystem::path golden_folder();
// The files PREFIX*.h5 there, sorted. Throws std::runtime_error if there is none: a test that reads
// all of nothing would pass.
std::vector<std::filesystem::path> golden_files(const std::string& prefix);

}  // namespace gsa::test
