// The file in which the choices of products' algorithms are kept (trainer/products.h): a line with
// its checksum, then a line a product. For one kind of GPU and one version of the library.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "trainer/product_choices.h"

namespace gsa {

class ProductFile {
 public:
  // Of this library ("NVIDIA H200, cuBLASLt 130100"), in the folder GSA_PRODUCT_CACHE, else
  // $XDG_CACHE_HOME/gsa, else ~/.cache/gsa. Absent where GSA_PRODUCT_CACHE is "off" or there is no
  // such folder.
  static std::optional<ProductFile> find(const std::string& library);

  const std::filesystem::path& path() const { return path_; }
  // Empty if there is no file yet, or, with a line to say so, if it is damaged.
  ProductChoices read() const;
  // In one step: readers see the old file or the new one. False where it cannot be written.
  bool write(const ProductChoices& choices) const;

 private:
  explicit ProductFile(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace gsa
