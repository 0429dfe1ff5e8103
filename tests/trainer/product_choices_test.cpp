// Which algorithm a product gets, and from where.
#include "trainer/product_choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gsa {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const std::string here = "NVIDIA H200, cuBLASLt 130100";
const std::string elsewhere = "NVIDIA H100, cuBLASLt 130000";
const std::vector<std::string> products{"forward", "backward", "head"};

// The decisions for the products on a library that takes all algorithms but "refused".
std::map<std::string, ProductDecision> decide(const RunProducts& run,
                                              const std::optional<ProductChoices>& file) {
  return decide_products(products, here, run, file,
                         [](const std::string& /*name*/, const std::string& algorithm) {
                           return algorithm != "refused";
                         });
}

ProductDecision of_run(const std::string& algorithm) {
  return {ProductSource::run, algorithm};
}
ProductDecision of_file(const std::string& algorithm) {
  return {ProductSource::file, algorithm};
}
const ProductDecision measured{ProductSource::measurement, ""};
const ProductDecision proposed{ProductSource::first_proposal, ""};

using Decisions = std::map<std::string, ProductDecision>;

TEST(ProductChoices, TheRunsOwnComeBeforeTheFilesAndThoseBeforeAMeasurement) {
  const RunProducts run{here, {{"forward", "1"}, {"of another shape", "9"}}};
  const ProductChoices file{{"forward", "2"}, {"backward", "3"}};
  EXPECT_EQ(decide(run, file),
            (Decisions{{"forward", of_run("1")}, {"backward", of_file("3")}, {"head", measured}}));
  EXPECT_EQ(what_changes(decide(run, file), here, run), "");
}

TEST(ProductChoices, ANewRunTakesWhatTheFileHas) {
  EXPECT_EQ(decide({}, ProductChoices{{"head", "4"}}),
            (Decisions{{"forward", measured}, {"backward", measured}, {"head", of_file("4")}}));
  EXPECT_EQ(what_changes(decide({}, ProductChoices{}), here, {}), "");
}

TEST(ProductChoices, WhereNothingIsKeptNothingIsMeasured) {
  // But what the run remembers holds there too, whether it was measured or proposed.
  const RunProducts run{here, {{"forward", "1"}, {"backward", "2"}}};
  EXPECT_EQ(decide(run, std::nullopt),
            (Decisions{{"forward", of_run("1")}, {"backward", of_run("2")}, {"head", proposed}}));
}

TEST(ProductChoices, OfAnotherLibraryAreChosenAnewAndThatIsTold) {
  const RunProducts run{elsewhere, {{"forward", "1"}, {"backward", "2"}}};
  const Decisions decisions = decide(run, ProductChoices{{"backward", "2"}});
  EXPECT_EQ(decisions,
            (Decisions{{"forward", measured}, {"backward", of_file("2")}, {"head", measured}}));
  EXPECT_THAT(what_changes(decisions, here, run),
              AllOf(HasSubstr("of 2 of the run's"), HasSubstr("they are of " + elsewhere),
                    HasSubstr("this is " + here), HasSubstr("within rounding")));
}

TEST(ProductChoices, ThatTheLibraryDoesNotTakeAreChosenAnewAndThatIsTold) {
  const RunProducts run{here, {{"forward", "refused"}, {"backward", "2"}, {"head", "refused"}}};
  const Decisions decisions = decide(run, ProductChoices{{"forward", "3"}, {"head", "refused"}});
  EXPECT_EQ(decisions,
            (Decisions{{"forward", of_file("3")}, {"backward", of_run("2")}, {"head", measured}}));
  EXPECT_THAT(what_changes(decisions, here, run),
              AllOf(HasSubstr("of 2 of the run's"), HasSubstr("does not take them")));
}

TEST(ProductChoices, ReadBackFromText) {
  const ProductChoices choices{{"16384_2048_1", "00ff"}, {"32_8_1", "1234"}};
  EXPECT_EQ(parse_product_choices(text_of(choices)), choices);
  EXPECT_TRUE(parse_product_choices("").empty());
  EXPECT_TRUE(parse_product_choices("alone").empty());
  EXPECT_EQ(parse_product_choices(std::string("a\0b \n\xff\n c", 9)).size(), 1U);
}

}  // namespace
}  // namespace gsa
