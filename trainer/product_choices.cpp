#include "trainer/product_choices.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

namespace gsa {

std::string text_of(const ProductChoices& choices) {
  std::string text;
  for (const auto& [product, algorithm] : choices) {
    text.append(product).append(" ").append(algorithm).append("\n");
  }
  return text;
}

ProductChoices parse_product_choices(const std::string& text) {
  ProductChoices choices;
  std::istringstream words(text);
  std::string product;
  std::string algorithm;
  while (words >> product >> algorithm) {
    choices[product] = algorithm;
  }
  return choices;
}

std::map<std::string, ProductDecision> decide_products(const std::vector<std::string>& names,
                                                       const std::string& library,
                                                       const RunProducts& run,
                                                       const std::optional<ProductChoices>& file,
                                                       const TakesAlgorithm& takes) {
  const ProductChoices nothing;
  const ProductChoices& remembered = run.library == library ? run.choices : nothing;
  const ProductChoices& kept = file ? *file : nothing;
  std::map<std::string, ProductDecision> decisions;
  for (const std::string& name : names) {
    const auto known = [&](const ProductChoices& choices) {
      const auto found = choices.find(name);
      return found != choices.end() && takes(name, found->second) ? found->second : "";
    };
    ProductDecision& decision = decisions[name];
    if (const std::string algorithm = known(remembered); !algorithm.empty()) {
      decision = {ProductSource::run, algorithm};
    } else if (const std::string other = known(kept); !other.empty()) {
      decision = {ProductSource::file, other};
    } else {
      decision = {file ? ProductSource::measurement : ProductSource::first_proposal, ""};
    }
  }
  return decisions;
}

std::string what_changes(const std::map<std::string, ProductDecision>& decisions,
                         const std::string& library, const RunProducts& run) {
  const auto changed = std::count_if(decisions.begin(), decisions.end(), [&](const auto& entry) {
    return entry.second.source != ProductSource::run && run.choices.contains(entry.first);
  });
  if (changed == 0) {
    return "";
  }
  const std::string why = run.library == library
                              ? fmt::format("{} does not take them", library)
                              : fmt::format("they are of {}, this is {}", run.library, library);
  return fmt::format(
      "algorithms of {} of the run's matrix products are chosen anew: {}; the curve goes on within "
      "rounding",
      changed, why);
}

}  // namespace gsa
