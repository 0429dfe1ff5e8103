#include "trainer/config/values.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "trainer/config/suggest.h"

namespace gsa {
namespace {

TEST(Values, CountsTakeSuffixesAndExponents) {
  EXPECT_EQ(parse_count("0"), 0);
  EXPECT_EQ(parse_count("64"), 64);
  EXPECT_EQ(parse_count("-3"), -3);
  EXPECT_EQ(parse_count("16K"), 16'000);
  EXPECT_EQ(parse_count("0.5M"), 500'000);
  EXPECT_EQ(parse_count("100B"), 100'000'000'000);
  EXPECT_EQ(parse_count("1.5T"), 1'500'000'000'000);
  EXPECT_EQ(parse_count("1e9"), 1'000'000'000);
  EXPECT_EQ(parse_count("2.5E+3"), 2'500);
  EXPECT_EQ(parse_count("5000e-3"), 5);
  EXPECT_EQ(parse_count("1.0"), 1);
  EXPECT_EQ(parse_count("999999999999999999"), 999'999'999'999'999'999);
  EXPECT_EQ(parse_count("1e18"), kLargestCount);
  EXPECT_EQ(parse_count("0e999"), 0);
}

TEST(Values, CountsRefuseEverythingElse) {
  for (const char* text : {"",
                           "-",
                           "K",
                           ".",
                           "e9",
                           "1e",
                           "1e+",
                           "1e1.5",
                           "0.5",
                           "1.23K4",
                           "1_000",
                           "1,000",
                           " 1",
                           "1 ",
                           "0x10",
                           "12k",
                           "1KK",
                           "--1",
                           "+1",
                           "1.2.3",
                           "1e19",
                           "1e99999",
                           "99999999999999999999",
                           "2e18",
                           "1001e15",
                           "nan",
                           "inf",
                           "true"}) {
    EXPECT_EQ(parse_count(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(Values, RealsAreFiniteDecimals) {
  EXPECT_EQ(parse_real("3e-4"), 3e-4);
  EXPECT_EQ(parse_real("-2"), -2.0);
  EXPECT_EQ(parse_real("0.1"), 0.1);
  for (const char* text : {"", "inf", "nan", "1e999", "0.1x", "0x1p3", " 1", "1,5"}) {
    EXPECT_EQ(parse_real(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(Values, RealsReadBackToTheSameBits) {
  std::mt19937_64 random(7);
  std::uniform_real_distribution<double> mantissa(-1, 1);
  std::uniform_int_distribution<int> exponent(-300, 300);
  for (int i = 0; i < 1000; ++i) {
    const double value = std::ldexp(mantissa(random), exponent(random));
    EXPECT_EQ(parse_real(format_real(value)), value);
  }
  const double tiny = std::numeric_limits<double>::denorm_min();
  EXPECT_EQ(parse_real(format_real(tiny)), tiny);
}

TEST(Values, DurationsAreDaysHoursMinutesAndSeconds) {
  EXPECT_EQ(parse_duration("23h50m"), 23 * 3600 + 50 * 60);
  EXPECT_EQ(parse_duration("1d12h"), 36 * 3600);
  EXPECT_EQ(parse_duration("90m"), 5400);
  EXPECT_EQ(parse_duration("45s"), 45);
  EXPECT_EQ(parse_duration("2d3h4m5s"), 2 * 86400 + 3 * 3600 + 4 * 60 + 5);
  for (const char* text : {"", "0s", "h", "1", "1x", "10m1h", "1h1h", "-1h", "1.5h", "1h ", " 1h",
                           "9999999999999999999s", "4000d"}) {
    EXPECT_FALSE(parse_duration(text)) << text;
  }
}

TEST(Values, BooleansAreTrueOrFalse) {
  EXPECT_EQ(parse_boolean("true"), true);
  EXPECT_EQ(parse_boolean("false"), false);
  for (const char* text : {"", "yes", "True", "1", "on"}) {
    EXPECT_EQ(parse_boolean(text), std::nullopt) << text;
  }
}

TEST(Suggest, DistanceCountsEditsAndSwaps) {
  EXPECT_EQ(edit_distance("slots", "slots"), 0U);
  EXPECT_EQ(edit_distance("slot", "slots"), 1U);
  EXPECT_EQ(edit_distance("solts", "slots"), 1U);
  EXPECT_EQ(edit_distance("Slots", "slots"), 0U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
}

TEST(Suggest, NearestIsNearEnoughToBeMeant) {
  const std::vector<std::string> names = {"lr", "beta1", "beta2", "weight_decay", "clip"};
  EXPECT_EQ(nearest("weigth_decay", names), "weight_decay");
  EXPECT_EQ(nearest("weight-decays", names), "weight_decay");
  EXPECT_EQ(nearest("lrr", names), "lr");
  EXPECT_EQ(nearest("momentum", names), "");
  EXPECT_EQ(nearest("xy", names), "");
  EXPECT_EQ(nearest(std::string(1 << 20, 'a'), names), "");
}

}  // namespace
}  // namespace gsa
