#include "tests/golden/golden.h"

#include <hdf5.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace gsa::test {
namespace {

// Owns an HDF5 id.
class Id {
 public:
  using Close = herr_t (*)(hid_t);
  Id(hid_t id, Close close) : id_(id), close_(close) {}
  ~Id() {
    if (id_ >= 0) {
      close_(id_);
    }
  }
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }

 private:
  hid_t id_;
  Close close_;
};

// Errors come back as codes and are thrown here: HDF5 need not print them as well.
void quiet() {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

herr_t collect_name(hid_t /*group*/, const char* name, const H5L_info_t* /*info*/, void* names) {
  static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

}  // namespace

struct GoldenFile::Handle {
  explicit Handle(const std::filesystem::path& file_path)
      : path(file_path.string()),
        file((quiet(), H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)), H5Fclose) {}

  [[noreturn]] void fail(const std::string& name, const char* what) const {
    throw std::runtime_error(path + ": " + name + " " + what);
  }

  std::string path;
  Id file;
};

GoldenFile::GoldenFile(const std::filesystem::path& path)
    : handle_(std::make_unique<Handle>(path)) {
  if (!handle_->file) {
    throw std::runtime_error(path.string() + ": cannot be read as an HDF5 file");
  }
}

GoldenFile::~GoldenFile() = default;
GoldenFile::GoldenFile(GoldenFile&&) noexcept = default;
GoldenFile& GoldenFile::operator=(GoldenFile&&) noexcept = default;

bool GoldenFile::has(const std::string& name) const {
  const Id dataset(H5Dopen2(handle_->file.get(), name.c_str(), H5P_DEFAULT), H5Dclose);
  return bool(dataset);
}

GoldenArray GoldenFile::read(const std::string& name) const {
  const Id dataset(H5Dopen2(handle_->file.get(), name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset) {
    handle_->fail(name, "is not there");
  }
  const Id space(H5Dget_space(dataset.get()), H5Sclose);
  std::vector<hsize_t> dims(static_cast<size_t>(H5Sget_simple_extent_ndims(space.get())));
  H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr);
  GoldenArray array;
  array.shape.assign(dims.begin(), dims.end());
  array.values.resize(static_cast<size_t>(H5Sget_simple_extent_npoints(space.get())));
  if (H5Dread(dataset.get(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT,
              array.values.data()) < 0) {
    handle_->fail(name, "cannot be read as numbers");
  }
  return array;
}

std::vector<std::string> GoldenFile::names(const std::string& group) const {
  const Id opened(H5Gopen2(handle_->file.get(), group.c_str(), H5P_DEFAULT), H5Gclose);
  if (!opened) {
    handle_->fail(group, "is not there");
  }
  std::vector<std::string> names;
  H5Literate(opened.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_name, &names);
  std::sort(names.begin(), names.end());
  return names;
}

bool GoldenFile::has_attribute(const std::string& name) const {
  return H5Aexists(handle_->file.get(), name.c_str()) > 0;
}

double GoldenFile::attribute(const std::string& name) const {
  const Id attribute(H5Aopen(handle_->file.get(), name.c_str(), H5P_DEFAULT), H5Aclose);
  if (!attribute) {
    handle_->fail("attribute " + name, "is not there");
  }
  const Id type(H5Aget_type(attribute.get()), H5Tclose);
  double value = 0;
  if (H5Tget_class(type.get()) == H5T_ENUM) {  // a flag, as h5py writes it: one byte
    int8_t flag = 0;
    if (H5Tget_size(type.get()) != sizeof(flag) ||
        H5Aread(attribute.get(), type.get(), &flag) < 0) {
      handle_->fail("attribute " + name, "cannot be read as a flag");
    }
    value = flag;
  } else if (H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value) < 0) {
    handle_->fail("attribute " + name, "cannot be read as a number");
  }
  return value;
}

std::filesystem::path golden_folder() {
  const char* folder = std::getenv("GSA_GOLDEN_DIR");
  return folder != nullptr && *folder != '\0' ? folder : GSA_GOLDEN_DEFAULT_DIR;
}

std::vector<std::filesystem::path> golden_files(const std::string& prefix) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(golden_folder())) {
    if (entry.path().filename().string().starts_with(prefix) && entry.path().extension() == ".h5") {
      files.push_back(entry.path());
    }
  }
  if (files.empty()) {
    throw std::runtime_error(golden_folder().string() + ": has no " + prefix +
                             "*.h5; set GSA_GOLDEN_DIR to the folder of the golden values");
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace gsa::test
