#include "trainer/products.h"

#include <fmt/format.h>

#include <chrono>
#include <map>
#include <optional>
#include <vector>

#include "kernels/product_choice.h"
#include "trainer/metrics/log.h"
#include "trainer/product_file.h"

namespace gsa {
namespace {

// Below this a product takes some microseconds with any algorithm.
constexpr double fewest_flops = 4e9;

using Products = std::map<std::string, kernels::Matmul>;

// What rank 0 measured.
struct Measured {
  ProductChoices choices;
  double seconds = 0;
  double first_ms = 0;
  double chosen_ms = 0;
};

Measured measure(Stream& stream, const Products& products,
                 const std::map<std::string, ProductDecision>& decisions) {
  const auto begin = std::chrono::steady_clock::now();
  Measured measured;
  for (const auto& [name, decision] : decisions) {
    if (decision.source != ProductSource::measurement) {
      continue;
    }
    const kernels::ProductMeasurement product = kernels::measure_product(stream, products.at(name));
    measured.choices[name] = product.algorithm;
    measured.first_ms += product.first_ms;
    measured.chosen_ms += product.milliseconds;
    log_debug(fmt::format("product {}: {:.4f} ms, first proposal {:.4f} ms", name,
                          product.milliseconds, product.first_ms));
  }
  measured.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return measured;
}

// Adds what was measured to the file. False if it cannot be kept: the next start would measure
// again, and perhaps choose others.
bool keep(const Measured& measured, const ProductFile& file) {
  ProductChoices all = file.read();  // others may have written in the meantime
  for (const auto& [name, algorithm] : measured.choices) {
    all[name] = algorithm;
  }
  if (!file.write(all)) {
    log_info(
        fmt::format("{} cannot be written: products that no checkpoint remembers take the "
                    "library's first proposals",
                    file.path().string()));
    return false;
  }
  log_info(fmt::format(
      "measured {} products in {:.1f} s, {:.1f} % faster than the library's first proposals; kept "
      "in {}",
      measured.choices.size(), measured.seconds, 100 * (measured.first_ms / measured.chosen_ms - 1),
      file.path().string()));
  return true;
}

// Rank 0's part: every product's algorithm.
ProductChoices choose(Stream& stream, const Products& products, const std::string& library,
                      const RunProducts& remembered) {
  std::vector<std::string> names;
  for (const auto& [name, product] : products) {
    names.push_back(name);
  }
  const auto file = ProductFile::find(library);
  const auto decisions =
      decide_products(names, library, remembered, file ? std::optional(file->read()) : std::nullopt,
                      [&](const std::string& name, const std::string& algorithm) {
                        return kernels::choose_product(stream, products.at(name), algorithm);
                      });
  if (const std::string change = what_changes(decisions, library, remembered); !change.empty()) {
    log_warning(change);
  }
  Measured measured = measure(stream, products, decisions);
  if (!measured.choices.empty() && !keep(measured, *file)) {
    measured.choices.clear();
  }
  ProductChoices choices = measured.choices;
  for (const auto& [name, decision] : decisions) {
    if (!choices.contains(name)) {
      choices[name] = decision.algorithm.empty()
                          ? kernels::first_proposal(stream, products.at(name))
                          : decision.algorithm;
    }
  }
  return choices;
}

}  // namespace

void require_room(const Session& session, const PassCost& step) {
  if (session.device != Device::cpu) {
    const Buffer arena(session.device, step.arena.bytes());
  }
}

RunProducts prepare_products(Session& session, Stream& stream, const PassCost& step,
                             const RunProducts& remembered) {
  if (session.device == Device::cpu) {
    return {};
  }
  Products different;
  for (const kernels::Matmul& product : step.products) {
    if (product.flops() >= fewest_flops) {
      different.emplace(kernels::product_name(product), product);
    }
  }
  RunProducts run{kernels::product_library(stream), {}};
  run.choices = parse_product_choices(session.communicator->broadcast_text(
      session.is_root() ? text_of(choose(stream, different, run.library, remembered)) : ""));
  for (const auto& [name, algorithm] : run.choices) {
    kernels::choose_product(stream, different.at(name), algorithm);
  }
  return run;
}

}  // namespace gsa
