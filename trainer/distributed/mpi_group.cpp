#include "trainer/distributed/mpi_group.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <thread>
#include <utility>

#include "trainer/distributed/communicator.h"

namespace gsa {
namespace {

// A wait first gives its core to other threads this many times, then sleeps between looks: short
// waits stay short, and ranks beyond the number of cores do not keep each other from working.
constexpr int polls_before_sleeping = 200;
constexpr std::chrono::microseconds sleep_between_polls{50};
// For the answers of the others when one gives up: they look as often as it does, on a busy machine
// too.
constexpr double roll_call_patience = 3;

const char* name_of(Collective collective) {
  switch (collective) {
    case Collective::reduce_scatter:
      return "reduce_scatter";
    case Collective::all_gather:
      return "all_gather";
    case Collective::all_reduce:
      return "all_reduce";
    case Collective::barrier:
      return "barrier";
    case Collective::all_gather_text:
      return "all_gather_text";
    case Collective::broadcast_text:
      return "broadcast_text";
    case Collective::roll_call:
      return "roll_call";
  }
  return "?";
}

std::string seconds_text(double seconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g s", seconds);
  return text.data();
}

std::string mpi_error_text(int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return {text.data(), static_cast<size_t>(length)};
}

}  // namespace

void check_mpi(int code, const std::string& what) {
  if (code != MPI_SUCCESS) {
    throw CommunicationError(what + ": MPI says: " + mpi_error_text(code));
  }
}

MpiGroup::MpiGroup(double timeout_seconds) : timeout_(timeout_seconds) {
  const char* what = "forming the group of ranks";
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), what);
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), what);
  check_mpi(MPI_Comm_rank(comm_, &rank_), what);
  check_mpi(MPI_Comm_size(comm_, &size_), what);
  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host), what);
  check_mpi(MPI_Comm_rank(host, &local_rank_), what);
  check_mpi(MPI_Comm_size(host, &local_size_), what);
  check_mpi(MPI_Comm_free(&host), what);
}

MpiGroup::~MpiGroup() {
  // Freeing is collective: a group with an error may have lost ranks and is left to the exit.
  if (!broken_ && std::uncaught_exceptions() == 0) {
    MPI_Comm_free(&comm_);
  }
}

void MpiGroup::exchange(Collective collective, std::span<const OutgoingMessage> outgoing,
                        std::span<const IncomingMessage> incoming) {
  if (broken_) {
    throw CommunicationError(where(collective) +
                             "an earlier operation failed; the run must be aborted");
  }
  post(collective, outgoing, incoming);
  wait(collective);
}

std::string MpiGroup::where(Collective collective) const {
  return std::string(name_of(collective)) + " on rank " + std::to_string(rank_) + ": ";
}

void MpiGroup::post(Collective collective, std::span<const OutgoingMessage> outgoing,
                    std::span<const IncomingMessage> incoming) {
  const int tag = static_cast<int>(collective);
  requests_.clear();
  peers_.clear();
  // Receives first: what arrives then goes straight to its place.
  for (const IncomingMessage& message : incoming) {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Irecv(message.data, static_cast<int>(message.bytes), MPI_BYTE, message.peer, tag,
                    comm_, &request),
          collective);
    requests_.push_back(request);
    peers_.push_back(message.peer);
  }
  for (const OutgoingMessage& message : outgoing) {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Isend(message.data, static_cast<int>(message.bytes), MPI_BYTE, message.peer, tag,
                    comm_, &request),
          collective);
    requests_.push_back(request);
    peers_.push_back(message.peer);
  }
}

void MpiGroup::wait(Collective collective) {
  const auto begin = std::chrono::steady_clock::now();
  completed_.resize(requests_.size());
  int idle_polls = 0;
  while (true) {
    int count = 0;
    check(MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                       completed_.data(), MPI_STATUSES_IGNORE),
          collective);
    if (count == MPI_UNDEFINED) {
      return;  // nothing is left to wait for
    }
    if (count > 0) {
      idle_polls = 0;
      continue;
    }
    if (++idle_polls < polls_before_sleeping) {
      sched_yield();
      continue;
    }
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
    if (waited >= timeout_ || roll_is_called()) {
      give_up_waiting(collective, waited.count());
    }
    std::this_thread::sleep_for(sleep_between_polls);
  }
}

void MpiGroup::check(int code, Collective collective) {
  if (code != MPI_SUCCESS) {
    abandon();
    throw CommunicationError(where(collective) + "MPI says: " + mpi_error_text(code));
  }
}

bool MpiGroup::roll_is_called() {
  int called = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, static_cast<int>(Collective::roll_call), comm_, &called,
             MPI_STATUS_IGNORE);
  return called != 0;
}

void MpiGroup::give_up_waiting(Collective collective, double seconds) {
  const std::string missing = account_of_missing(collective);
  abandon();
  throw LostRanksError(where(collective) + "waited " + seconds_text(seconds) + " for " + missing);
}

// Who does not answer; where all do, the ranks that this one waits for, with what they say.
std::string MpiGroup::account_of_missing(Collective collective) {
  const std::vector<std::optional<std::string>> answers =
      roll_call(std::string("waits in ") + name_of(collective), roll_call_patience);
  std::string silent;
  int count = 0;
  for (int peer = 0; peer < size_; ++peer) {
    if (!answers[static_cast<size_t>(peer)]) {
      silent += (count++ == 0 ? "" : ", ") + std::to_string(peer);
    }
  }
  if (count > 0) {
    return (count == 1 ? "rank " : "ranks ") + silent +
           "; look for what stopped it, or raise distributed.timeout";
  }
  std::string text;
  for (const int peer : pending_peers()) {
    text += (text.empty() ? "rank " : ", rank ") + std::to_string(peer) + " (which " +
            *answers[static_cast<size_t>(peer)] + ")";
  }
  return text + "; if they were only slow, raise distributed.timeout";
}

std::vector<int> MpiGroup::pending_peers() const {
  std::vector<int> pending;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] != MPI_REQUEST_NULL) {
      pending.push_back(peers_[i]);
    }
  }
  std::sort(pending.begin(), pending.end());
  pending.erase(std::unique(pending.begin(), pending.end()), pending.end());
  return pending;
}

// The round that is under way never ends.
void MpiGroup::abandon() {
  broken_ = true;
  for (MPI_Request& request : requests_) {
    if (request != MPI_REQUEST_NULL) {
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
  }
}

void MpiGroup::barrier() {
  const std::byte sent{};
  std::vector<std::byte> received(static_cast<size_t>(size_));
  std::vector<OutgoingMessage> outgoing;
  std::vector<IncomingMessage> incoming;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank_) {
      outgoing.push_back({peer, &sent, 1});
      incoming.push_back({peer, &received[static_cast<size_t>(peer)], 1});
    }
  }
  exchange(Collective::barrier, outgoing, incoming);
}

std::vector<std::string> MpiGroup::all_gather_text(const std::string& text) {
  const auto ranks = static_cast<size_t>(size_);
  std::vector<uint64_t> lengths(ranks);
  lengths[static_cast<size_t>(rank_)] = text.size();
  std::vector<OutgoingMessage> outgoing;
  std::vector<IncomingMessage> incoming;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank_) {
      uint64_t* theirs = &lengths[static_cast<size_t>(peer)];
      outgoing.push_back({peer, &lengths[static_cast<size_t>(rank_)], sizeof(uint64_t)});
      incoming.push_back({peer, theirs, sizeof(uint64_t)});
    }
  }
  exchange(Collective::all_gather_text, outgoing, incoming);

  std::vector<std::string> texts(ranks);
  for (size_t i = 0; i < ranks; ++i) {
    texts[i].resize(lengths[i]);
  }
  texts[static_cast<size_t>(rank_)] = text;
  const uint64_t longest = *std::max_element(lengths.begin(), lengths.end());
  for (uint64_t begin = 0; begin < longest; begin += block_bytes) {
    outgoing.clear();
    incoming.clear();
    for (int peer = 0; peer < size_; ++peer) {
      std::string& theirs = texts[static_cast<size_t>(peer)];
      if (peer != rank_ && begin < text.size()) {
        outgoing.push_back({peer, &text[begin], std::min(block_bytes, text.size() - begin)});
      }
      if (peer != rank_ && begin < theirs.size()) {
        incoming.push_back({peer, &theirs[begin], std::min(block_bytes, theirs.size() - begin)});
      }
    }
    exchange(Collective::all_gather_text, outgoing, incoming);
  }
  return texts;
}

std::string MpiGroup::broadcast_text(const std::string& text) {
  const auto round = [this](void* data, size_t bytes) {
    std::vector<OutgoingMessage> outgoing;
    std::vector<IncomingMessage> incoming;
    if (rank_ == 0) {
      for (int peer = 1; peer < size_; ++peer) {
        outgoing.push_back({peer, data, bytes});
      }
    } else {
      incoming.push_back({0, data, bytes});
    }
    exchange(Collective::broadcast_text, outgoing, incoming);
  };
  uint64_t length = text.size();
  round(&length, sizeof(length));
  std::string result = rank_ == 0 ? text : std::string(length, '\0');
  for (uint64_t begin = 0; begin < length; begin += block_bytes) {
    round(&result[begin], std::min<uint64_t>(block_bytes, length - begin));
  }
  return result;
}

std::vector<std::optional<std::string>> MpiGroup::roll_call(const std::string& text,
                                                            double seconds) {
  const auto ranks = static_cast<size_t>(size_);
  roll_call_ = std::vector<RollCallText>(ranks);
  RollCallText& own = roll_call_[static_cast<size_t>(rank_)];
  std::copy_n(text.data(), std::min(text.size(), roll_call_bytes - 1), own.data());
  const int tag = static_cast<int>(Collective::roll_call);
  std::vector<MPI_Request> requests(ranks, MPI_REQUEST_NULL);
  for (size_t peer = 0; peer < ranks; ++peer) {
    if (static_cast<int>(peer) != rank_) {
      MPI_Request sending = MPI_REQUEST_NULL;
      MPI_Irecv(roll_call_[peer].data(), roll_call_bytes, MPI_BYTE, static_cast<int>(peer), tag,
                comm_, &requests[peer]);
      MPI_Isend(own.data(), roll_call_bytes, MPI_BYTE, static_cast<int>(peer), tag, comm_,
                &sending);
      MPI_Request_free(&sending);
    }
  }
  broken_ = true;
  std::vector<std::optional<std::string>> texts(ranks);
  texts[static_cast<size_t>(rank_)] = text;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (size_t missing = ranks - 1; missing > 0 && std::chrono::steady_clock::now() < deadline;) {
    for (size_t peer = 0; peer < ranks; ++peer) {
      int arrived = 0;
      if (!texts[peer] && MPI_Test(&requests[peer], &arrived, MPI_STATUS_IGNORE) == MPI_SUCCESS &&
          arrived != 0) {
        texts[peer] = roll_call_[peer].data();
        --missing;
      }
    }
    std::this_thread::sleep_for(sleep_between_polls);
  }
  for (size_t peer = 0; peer < ranks; ++peer) {
    if (!texts[peer]) {  // a receive that never comes is taken back by this rank alone
      MPI_Cancel(&requests[peer]);
      MPI_Request_free(&requests[peer]);
    }
  }
  return texts;
}

}  // namespace gsa
