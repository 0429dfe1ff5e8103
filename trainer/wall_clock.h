// A limit on the time that a process may run (`train.wall_clock_limit`): says when to stop so that
// the last checkpoint is written before it.
#pragma once

#include <cstdint>

namespace gsa {

// Seconds since this process was started.
double process_age();

class WallClock {
 public:
  // `limit`: seconds of the process's age; 0: none. `checkpoint_bytes`: what this rank writes in a
  // checkpoint, from which its time is guessed until one has been measured.
  WallClock(double limit, double checkpoint_bytes);

  // What took how long, in seconds: the longest of each is what is reckoned with.
  void step_took(double seconds);
  void checkpoint_took(double seconds);

  // Whether, at this age of the process, another step might leave too little time for the last
  // checkpoint.
  bool is_up(double age) const { return limit_ > 0 && age + reserve() >= limit_; }
  bool is_up() const { return limit_ > 0 && is_up(process_age()); }
  // Seconds kept back: one more step, twice the time of a checkpoint (the one that may be under way
  // and the last), and a margin.
  double reserve() const;

 private:
  double limit_;
  double longest_step_ = 0;
  double longest_checkpoint_ = 0;
  double guessed_checkpoint_;
};

}  // namespace gsa
