#include "trainer/products.h"

#include <fmt/format.h>

#include <chrono>
#include <map>

#include "kernels/product_choice.h"
#include "trainer/metrics/log.h"
#include "trainer/product_file.h"

namespace gsa {
namespace {

// Below this a product takes some microseconds with any algorithm.
constexpr double fewest_flops = 4e9;

// What rank 0 measured, for its line.
struct Report {
  size_t measured = 0;
  double seconds = 0;
  double first_ms = 0;
  double chosen_ms = 0;
};

// The choices for these products: those of the file, and what it does not know measured. A choice
// that the library does not take is measured again.
ProductChoices choose(Stream& stream, const std::map<std::string, kernels::Matmul>& products,
                      const ProductChoices& known, Report& report) {
  const auto begin = std::chrono::steady_clock::now();
  ProductChoices choices;
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
  const auto file = ProductFile::find(kernels::product_library(stream));
  if (!file || products.empty()) {
    return "";
  }
  Report report;
  const ProductChoices choices = choose(stream, products, file->read(), report);
  if (report.measured > 0) {
    ProductChoices all = file->read();  // others may have written in the meantime
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

void prepare_products(Session& session, Stream& stream, const PassCost& step) {
  if (session.device == Device::cpu) {
    return;
  }
  { const Buffer arena(session.device, step.arena.bytes()); }  // taken to see whether it fits
  std::map<std::string, kernels::Matmul> different;
  for (const kernels::Matmul& product : step.products) {
    if (product.flops() >= fewest_flops) {
      different.emplace(kernels::product_name(product), product);
    }
  }
  const ProductChoices choices = parse_product_choices(
      session.communicator->broadcast_text(session.is_root() ? prepare(stream, different) : ""));
  for (const auto& [name, algorithm] : choices) {
    kernels::choose_product(stream, different.at(name), algorithm);
  }
}

}  // namespace gsa
