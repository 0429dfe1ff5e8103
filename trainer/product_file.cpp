#include "trainer/product_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <system_error>

#include "trainer/metrics/log.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

// The file's first line: its format, and the FNV-1a of the rest.
std::string head_of(const std::string& body) {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : body) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  }
  return fmt::format("gsa products 1 {:016x}", hash);
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets any
  return value == nullptr ? "" : value;
}

fs::path cache_folder() {
  if (const std::string own = variable("GSA_PRODUCT_CACHE"); !own.empty()) {
    return own == "off" ? "" : own;
  }
  if (const std::string caches = variable("XDG_CACHE_HOME"); !caches.empty()) {
    return fs::path(caches) / "gsa";
  }
  const std::string home = variable("HOME");
  return home.empty() ? fs::path() : fs::path(home) / ".cache" / "gsa";
}

}  // namespace

std::optional<ProductFile> ProductFile::find(const std::string& library) {
  const fs::path folder = cache_folder();
  if (folder.empty()) {
    return {};
  }
  std::string name = "products-" + library;
  for (char& c : name) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-';
    c = plain ? c : '_';
  }
  return ProductFile(folder / (name + ".txt"));
}

ProductChoices ProductFile::read() const {
  std::ifstream file(path_, std::ios::binary);
  if (!file) {
    return {};
  }
  std::string head;
  std::getline(file, head);
  const std::string body{std::istreambuf_iterator<char>(file), {}};
  if (head != head_of(body)) {
    log_info(fmt::format("{} is damaged: products are measured anew", path_.string()));
    return {};
  }
  return parse_product_choices(body);
}

bool ProductFile::write(const ProductChoices& choices) const {
  std::error_code error;
  fs::create_directories(path_.parent_path(), error);
  const fs::path partial = fmt::format("{}.{}", path_.string(), getpid());
  const std::string body = text_of(choices);
  std::ofstream file(partial, std::ios::binary);
  file << head_of(body) << "\n" << body;
  file.close();
  if (file) {
    fs::rename(partial, path_, error);
  }
  if (!file || error) {
    std::error_code ignored;
    fs::remove(partial, ignored);
    return false;
  }
  return true;
}

}  // namespace gsa
