// All ranks of the program over MPI: messages with a time limit, and the host collectives made of
// them. For this folder only: MPI's types stay here.
//
// Everything is a round of point-to-point messages, so that a rank that does not come can be named,
// and so that the order of sums is this project's own and not the MPI library's.
#pragma once

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace gsa {

// What a message belongs to; ranks that call different collectives do not understand each other's
// messages and run into the time limit.
enum class Collective : int {
  reduce_scatter,
  all_gather,
  all_reduce,
  barrier,
  all_gather_text,
  broadcast_text,
  roll_call
};

struct OutgoingMessage {
  int peer;
  const void* data;
  size_t bytes;
};

struct IncomingMessage {
  int peer;
  void* data;
  size_t bytes;
};

class MpiGroup {
 public:
  // No message is longer: longer data goes in blocks.
  static constexpr size_t block_bytes = size_t{1} << 18;

  // Collective. Each wait for other ranks is given up after `timeout_seconds`.
  explicit MpiGroup(double timeout_seconds);
  ~MpiGroup();
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }

  // Sends and receives messages of at most block_bytes, and waits for all of them. Throws
  // LostRanksError with the ranks that did not come in time, or CommunicationError with MPI's
  // error; after that the group only answers with an error, and the run is to be aborted. Who waits
  // too long calls the roll, and all who wait elsewhere answer and give up with it: so each names
  // the ranks that are gone, and not those that wait for them in their turn.
  void exchange(Collective collective, std::span<const OutgoingMessage> outgoing,
                std::span<const IncomingMessage> incoming);

  // As in Communicator.
  void barrier();
  std::vector<std::string> all_gather_text(const std::string& text);
  std::string broadcast_text(const std::string& text);

  // Who is there: sends a text of at most roll_call_bytes to all ranks and returns theirs, those
  // that come within `seconds`. For after a failure, when some may be gone; afterwards the group
  // only answers with an error.
  static constexpr size_t roll_call_bytes = 256;
  std::vector<std::optional<std::string>> roll_call(const std::string& text, double seconds);

 private:
  void post(Collective collective, std::span<const OutgoingMessage> outgoing,
            std::span<const IncomingMessage> incoming);
  void wait(Collective collective);
  void check(int code, Collective collective);
  bool roll_is_called();
  [[noreturn]] void give_up_waiting(Collective collective, double seconds);
  std::string account_of_missing(Collective collective);
  std::string where(Collective collective) const;
  std::vector<int> pending_peers() const;
  void abandon();

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::chrono::duration<double> timeout_;
  bool broken_ = false;
  std::vector<MPI_Request> requests_;  // of the round that is under way
  std::vector<int> peers_;             // of each request
  std::vector<int> completed_;
  using RollCallText = std::array<char, roll_call_bytes>;
  std::vector<RollCallText> roll_call_;  // by rank
};

// Throws CommunicationError "WHAT: the library's text" unless `code` is MPI_SUCCESS.
void check_mpi(int code, const std::string& what);

}  // namespace gsa
