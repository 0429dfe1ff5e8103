#include "trainer/checkpoint/hdf5_handles.h"

#include "trainer/checkpoint/checkpoint.h"

namespace gsa {
namespace {

constexpr size_t memory_increment = size_t{1} << 20;
// Large datasets start at multiples of a disk's block.
constexpr hsize_t alignment_threshold = 1 << 16;
constexpr hsize_t alignment = 4096;

// Keeps the innermost description of HDF5's error stack: the cause.
herr_t keep_description(unsigned /*position*/, const H5E_error2_t* error, void* text) {
  if (error->desc != nullptr) {
    *static_cast<std::string*>(text) = error->desc;
  }
  return 0;
}

std::string last_error() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_description, &text);
  return text.empty() ? "no reason given" : text;
}

}  // namespace

QuietHdf5::QuietHdf5() {
  H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

QuietHdf5::~QuietHdf5() {
  H5Eset_auto2(H5E_DEFAULT, function_, data_);
}

void check_hdf5(long long answer, const std::string& file, const std::string& what) {
  if (answer < 0) {
    throw CheckpointError(file + ": " + what + ": HDF5 says: " + last_error());
  }
}

Hdf5Id owned(hid_t id, Hdf5Id::Closer closer, const std::string& file, const std::string& what) {
  check_hdf5(id, file, what);
  return {id, closer};
}

Hdf5Id create_in_memory(const std::string& name) {
  const char* what = "cannot be laid out";
  const Hdf5Id access = owned(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, name, what);
  check_hdf5(H5Pset_fapl_core(access, memory_increment, /*backing_store=*/0), name, what);
  // The oldest superblock that serves: it has no checksum, which HDF5 1.10 leaves wrong in images.
  check_hdf5(H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V110), name, what);
  return owned(H5Fcreate(name.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose, name, what);
}

std::vector<std::byte> image_of(const Hdf5Id& file, const std::string& name) {
  const char* what = "cannot be laid out";
  check_hdf5(H5Fflush(file, H5F_SCOPE_GLOBAL), name, what);
  const ssize_t bytes = H5Fget_file_image(file, nullptr, 0);
  check_hdf5(bytes, name, what);
  std::vector<std::byte> image(static_cast<size_t>(bytes));
  check_hdf5(H5Fget_file_image(file, image.data(), image.size()), name, what);
  return image;
}

Hdf5Id open_hdf5(const std::filesystem::path& path) {
  const char* what = "cannot be opened";
  const Hdf5Id access = owned(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, path.string(), what);
  check_hdf5(H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V110), path.string(),
             what);
  check_hdf5(H5Pset_alignment(access, alignment_threshold, alignment), path.string(), what);
  return owned(H5Fopen(path.c_str(), H5F_ACC_RDWR, access), H5Fclose, path.string(), what);
}

uint64_t offset_of(const Hdf5Id& dataset) {
  const haddr_t offset = H5Dget_offset(dataset);
  return offset == HADDR_UNDEF ? 0 : offset;
}

void write_attribute(hid_t object, const char* name, long long value, const std::string& file) {
  const std::string what = std::string("attribute ") + name;
  const Hdf5Id space = owned(H5Screate(H5S_SCALAR), H5Sclose, file, what);
  const Hdf5Id attribute =
      owned(H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
            file, what);
  check_hdf5(H5Awrite(attribute, H5T_NATIVE_LLONG, &value), file, what);
}

void write_attribute(hid_t object, const char* name, const std::string& value,
                     const std::string& file) {
  const std::string what = std::string("attribute ") + name;
  const Hdf5Id type = owned(H5Tcopy(H5T_C_S1), H5Tclose, file, what);
  check_hdf5(H5Tset_size(type, value.size() + 1), file, what);  // a string has at least one byte
  check_hdf5(H5Tset_cset(type, H5T_CSET_UTF8), file, what);
  const Hdf5Id space = owned(H5Screate(H5S_SCALAR), H5Sclose, file, what);
  const Hdf5Id attribute =
      owned(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, file, what);
  check_hdf5(H5Awrite(attribute, type, value.c_str()), file, what);
}

}  // namespace gsa
