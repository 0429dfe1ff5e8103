#include "trainer/metrics/events.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace gsa {
namespace {

namespace fs = std::filesystem;

class Events : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "gsa-events-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST_F(Events, AreReadBackOverAllStarts) {
  const fs::path path = folder_ / "events.jsonl";
  EXPECT_TRUE(read_events(path).empty());
  {
    EventLog log(path);
    log.write({.kind = "start", .step = 0, .ranks = 8, .host = "node1", .pid = 4711});
    log.write({.kind = "checkpoint",
               .step = 100,
               .seconds = 1.0 / 3,
               .stalled = 1.0 / 7,
               .bytes = int64_t{1} << 34});
  }
  std::ofstream(path, std::ios::app) << R"({"time":1,"event":"che)"
                                     << "\n";  // torn
  EventLog(path).write({.kind = "stop", .step = 123, .reason = "a \"quoted\"\nreason"});
  const std::vector<RunEvent> events = read_events(path);
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].kind, "start");
  EXPECT_EQ(events[0].ranks, 8);
  EXPECT_EQ(events[0].host, "node1");
  EXPECT_EQ(events[0].pid, 4711);
  EXPECT_EQ(events[1].step, 100);
  EXPECT_EQ(events[1].seconds, 1.0 / 3);
  EXPECT_EQ(events[1].stalled, 1.0 / 7);
  EXPECT_EQ(events[1].bytes, int64_t{1} << 34);
  EXPECT_EQ(events[2].reason, "a \"quoted\"\nreason");
  EXPECT_LE(events[0].time, events[2].time);
}

TEST_F(Events, BrokenLinesAreRefused) {
  const std::string whole = to_json_line(
      {.time = 1.5, .kind = "start", .step = 7, .reason = "x", .ranks = 2, .host = "h", .pid = 1});
  EXPECT_EQ(event_from_json_line(whole).step, 7);
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_THROW(event_from_json_line(whole.substr(0, length)), std::runtime_error) << length;
  }
  for (const char* line : {"{}", R"({"time":1,"event":2,"step":3})",
                           R"({"time":1,"event":"x","step":-3})", R"({"time":"1","event":"x"})"}) {
    EXPECT_THROW(event_from_json_line(line), std::runtime_error) << line;
  }
}

TEST_F(Events, AHeartbeatIsReplacedWholeWhenTheStateChanges) {
  const fs::path path = folder_ / "heartbeat.json";
  Heartbeat heartbeat(path);
  heartbeat.beat("training", 1);
  heartbeat.beat("training", 2);  // too soon
  EXPECT_EQ(read_heartbeat(path).step, 1);
  heartbeat.beat("done", 3);
  const HeartbeatState state = read_heartbeat(path);
  EXPECT_EQ(state.state, "done");
  EXPECT_EQ(state.step, 3);
  EXPECT_EQ(state.pid, getpid());
  EXPECT_EQ(state.host, host_name());
  EXPECT_FALSE(fs::exists(folder_ / "heartbeat.json.tmp"));
  Heartbeat(folder_ / "nowhere" / "heartbeat.json").beat("training", 1);  // no room: no error
}

}  // namespace
}  // namespace gsa
