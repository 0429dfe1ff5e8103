#include "trainer/products.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "kernels/product_choice.h"
#include "trainer/metrics/log.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

// Below this a product takes some microseconds with any algorithm.
constexpr double fewest_flops = 4e9;

// Algorithms by the names of products.
using Choices = std::map<std::string, std::string>;

// FNV-1a.
uint64_t checksum(const std::string& text) {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  }
  return hash;
}

std::string text_of(const Choices& choices) {
  std::string text;
  for (const auto& [product, algorithm] : choices) {
    text += product + " " + algorithm + "\n";
  }
  return text;
}

Choices parse(const std::string& text) {
  Choices choices;
  std::istringstream lines(text);
  std::string product;
  std::string algorithm;
  while (lines >> product >> algorithm) {
    choices[product] = algorithm;
  }
  return choices;
}

// The file of one library on one kind of GPU: a line with its checksum, then a line a product.
class ChoiceFile {
 public:
  // Absent where nothing is to be kept.
  static std::optional<ChoiceFile> find(const std::string& library) {
    const auto variable = [](const char* name) {
      const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets any
      return std::string(value == nullptr ? "" : value);
    };
    fs::path folder = variable("GSA_PRODUCT_CACHE");
    if (folder == "off") {
      return {};
    }
    if (folder.empty() && !variable("XDG_CACHE_HOME").empty()) {
      folder = fs::path(variable("XDG_CACHE_HOME")) / "gsa";
    }
    if (folder.empty() && !variable("HOME").empty()) {
      folder = fs::path(variable("HOME")) / ".cache" / "gsa";
    }
    if (folder.empty()) {
      return {};
    }
    std::string name = "products-" + library + ".txt";
    for (char& c : name) {
      const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-';
      c = plain ? c : '_';
    }
    return ChoiceFile(folder / name);
  }

  const fs::path& path() const { return path_; }

  // Empty if there is no file yet, or if it is damaged.
  Choices read() const {
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
    return parse(body);
  }

  // False where it cannot be written.
  bool write(const Choices& choices) const {
    std::error_code error;
    fs::create_directories(path_.parent_path(), error);
    const fs::path partial = fmt::format("{}.{}", path_.string(), getpid());
    const std::string body = text_of(choices);
    std::ofstream file(partial, std::ios::binary);
    file << head_of(body) << "\n" << body;
    file.close();
    if (!file) {
      fs::remove(partial, error);
      return false;
    }
    fs::rename(partial, path_, error);
    return !error;
  }

 private:
  explicit ChoiceFile(fs::path path) : path_(std::move(path)) {}
  static std::string head_of(const std::string& body) {
    return fmt::format("gsa products 1 {:016x}", checksum(body));
  }

  fs::path path_;
};

// What rank 0 measured, for its line.
struct Report {
  size_t measured = 0;
  double seconds = 0;
  double first_ms = 0;
  double chosen_ms = 0;
};

// The choices for these products: those of the file, and what it does not know measured. A choice
// that the library does not take is measured again.
Choices choose(Stream& stream, const std::map<std::string, kernels::Matmul>& products,
               Choices known, Report& report) {
  const auto begin = std::chrono::steady_clock::now();
  Choices choices;
  for (const auto& [name, product] : products) {
    const auto found = known.find(name);
    if (found != known.end() && kernels::choose_product(stream, product, found->second)) {
      choices[name] = found->second;
      continue;
    }
    const kernels::ProductMeasurement measurement = kernels::measure_product(stream, product);
    choices[name] = measurement.algorithm;
    ++report.measured;
    report.first_ms += measurement.first_ms;
    report.chosen_ms += measurement.milliseconds;
    log_debug(fmt::format("product {}: {:.4f} ms, first proposal {:.4f} ms", name,
                          measurement.milliseconds, measurement.first_ms));
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return choices;
}

// Rank 0's part: the choices as text, empty where there are none.
std::string prepare(Stream& stream, const std::map<std::string, kernels::Matmul>& products) {
  const auto file = ChoiceFile::find(kernels::product_library(stream));
  if (!file || products.empty()) {
    return "";
  }
  Report report;
  const Choices choices = choose(stream, products, file->read(), report);
  if (report.measured > 0) {
    Choices all = file->read();  // others may have written in the meantime
    for (const auto& [name, algorithm] : choices) {
      all[name] = algorithm;
    }
    if (!file->write(all)) {
      log_info(fmt::format("{} cannot be written: products take the library's first proposals",
                           file->path().string()));
      return "";
    }
    log_info(
        fmt::format("measured {} products in {:.1f} s, {:.1f} % faster than the library's "
                    "first proposals; kept in {}",
                    report.measured, report.seconds, 100 * (report.first_ms / report.chosen_ms - 1),
                    file->path().string()));
  }
  return text_of(choices);
}

}  // namespace

void prepare_products(Session& session, Stream& stream, std::span<const kernels::Matmul> products) {
  if (session.device == Device::cpu) {
    return;
  }
  std::map<std::string, kernels::Matmul> different;
  for (const kernels::Matmul& product : products) {
    if (product.flops() >= fewest_flops) {
      different.emplace(kernels::product_name(product), product);
    }
  }
  const Choices choices = parse(
      session.communicator->broadcast_text(session.is_root() ? prepare(stream, different) : ""));
  for (const auto& [name, algorithm] : choices) {
    kernels::choose_product(stream, different.at(name), algorithm);
  }
}

}  // namespace gsa
