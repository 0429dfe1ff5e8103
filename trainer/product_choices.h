// Which algorithm computes each of a run's matrix products, and where that is known from.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace gsa {

// Algorithms by the names of products (kernels/product_choice.h); as text, a line each. Any text
// can be parsed: the library has the last word on what an algorithm is.
using ProductChoices = std::map<std::string, std::string>;
std::string text_of(const ProductChoices& choices);
ProductChoices parse_product_choices(const std::string& text);

// What a run computes with, as its checkpoints remember it.
struct RunProducts {
  std::string library;  // that the choices are for (kernels::product_library); empty on the CPU
  ProductChoices choices;
};

// Where the algorithm of a product comes from, the first of these that has one.
enum class ProductSource : uint8_t {
  run,             // a checkpoint of the run remembers it
  file,            // this machine's file has it
  measurement,     // it is to be measured
  first_proposal,  // or, where nothing can be kept, it is what the library proposes first
};

struct ProductDecision {
  ProductSource source = ProductSource::first_proposal;
  std::string algorithm;  // of the run or the file; empty where it is to be found out

  bool operator==(const ProductDecision&) const = default;
};

// Whether the library here takes the algorithm for the product of this name.
using TakesAlgorithm = std::function<bool(const std::string& name, const std::string& algorithm)>;

// Decides for each of the products. What the run remembers counts if it is for this library; an
// algorithm that the library does not take counts nowhere. `file`: what is kept on this machine,
// absent where nothing can be.
std::map<std::string, ProductDecision> decide_products(const std::vector<std::string>& names,
                                                       const std::string& library,
                                                       const RunProducts& run,
                                                       const std::optional<ProductChoices>& file,
                                                       const TakesAlgorithm& takes);

// What is to be told of decisions that break with what the run remembers; empty if none does.
std::string what_changes(const std::map<std::string, ProductDecision>& decisions,
                         const std::string& library, const RunProducts& run);

}  // namespace gsa
