// FMI's collectives by plain blocking sockets on loopback: what benchmarks/collectives.py compares with on the same
// cores. No rendezvous host, authentication or deadlines. Run: collectives N prints a JSON object of medians.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

using Values = std::vector<double>;
constexpr int ROUNDS = 200, LARGE_ROUNDS = 5, MOST_RANKS = 64;
int connections[MOST_RANKS], own = 0, size = 0;

void expect(bool right, const char *what) {
  if (right) return;
  perror(what);
  exit(1);
}

void send_to(int peer, const void *data, size_t bytes) {
  const char *rest = static_cast<const char *>(data);
  while (bytes) {
    const ssize_t count = send(connections[peer], rest, bytes, MSG_NOSIGNAL);
    expect(count > 0, "send");
    rest += count;
    bytes -= count;
  }
}

void receive_from(int peer, void *data, size_t bytes) {
  expect(recv(connections[peer], data, bytes, MSG_WAITALL) == ssize_t(bytes), "recv");
}

template <class Value, class Combine>
void allreduce(std::vector<Value> &mine, Combine combine) {
  std::vector<Value> theirs(mine.size());
  const size_t bytes = mine.size() * sizeof(Value);
  int power = 1;
  while (2 * power <= size) power *= 2;
  if (own >= power) {
    send_to(own - power, mine.data(), bytes);
    receive_from(own - power, mine.data(), bytes);
    return;
  }
  if (own + power < size) {
    receive_from(own + power, theirs.data(), bytes);
    combine(mine, theirs);
  }
  for (int distance = 1; distance < power; distance *= 2) {
    const int peer = own ^ distance;
    if (own > peer) send_to(peer, mine.data(), bytes);
    receive_from(peer, theirs.data(), bytes);
    if (own < peer) send_to(peer, mine.data(), bytes);
    combine(mine, theirs);
  }
  if (own + power < size) send_to(own + power, mine.data(), bytes);
}

void add(Values &mine, const Values &theirs) {
  for (size_t place = 0; place < mine.size(); place++) mine[place] += theirs[place];
}

void reduce(Values mine) {
  Values theirs(mine.size());
  const size_t bytes = mine.size() * sizeof(double);
  for (int distance = 1; distance < size; distance *= 2) {
    if (own % (2 * distance) == 0 && own + distance < size) {
      receive_from(own + distance, theirs.data(), bytes);
      add(mine, theirs);
    } else if (own % distance == 0 && own % (2 * distance)) {
      send_to(own - distance, mine.data(), bytes);
    }
  }
}

void barrier() {
  std::vector<char> one(1, 1);
  allreduce(one, [](std::vector<char> &, const std::vector<char> &) {});
}

template <class Work>
double median_seconds(int rounds, Work work) {
  std::vector<double> times;
  for (int round = 0; round < rounds; round++) {
    barrier();
    const auto before = std::chrono::steady_clock::now();
    work();
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count());
  }
  std::sort(times.begin(), times.end());
  return times[rounds / 2];
}

// Both ends of a connection.
void connect_pair(int &first, int &second) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto *generic = reinterpret_cast<sockaddr *>(&address);
  expect(!bind(listener, generic, length) && !listen(listener, 1), "listen");
  expect(!getsockname(listener, generic, &length), "getsockname");
  first = socket(AF_INET, SOCK_STREAM, 0);
  expect(!connect(first, generic, length), "connect");
  second = accept(listener, nullptr, nullptr);
  expect(second >= 0, "accept");
  close(listener);
  for (int end : {first, second}) setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void measure() {
  const double micro = 1e6, milli = 1e3;
  double told[5] = {};
  Values one(1, 1.0), thousand(1000, 1.0);
  told[0] = micro * median_seconds(ROUNDS, barrier);
  told[1] = micro * median_seconds(ROUNDS, [&] { allreduce(one, add); });
  told[2] = micro * median_seconds(ROUNDS, [&] { reduce(one); });
  told[3] = micro * median_seconds(ROUNDS, [&] { allreduce(thousand, add); });
  told[4] = micro * median_seconds(ROUNDS, [&] { reduce(thousand); });
  double large = 0;
  if (size == 2) {
    std::vector<char> data(64 << 20, 1);
    large = milli * median_seconds(LARGE_ROUNDS, [&] {
      own ? receive_from(0, data.data(), data.size()) : send_to(1, data.data(), data.size());
      barrier();
    });
  }
  if (own) return;
  printf("{\"barrier (µs)\": %f, \"allreduce 1 (µs)\": %f, \"reduce 1 (µs)\": %f, ", told[0], told[1], told[2]);
  printf("\"allreduce 1000 (µs)\": %f, \"reduce 1000 (µs)\": %f", told[3], told[4]);
  if (size == 2) printf(", \"send 64 MiB (ms)\": %f", large);
  printf("}\n");
}

}  // namespace

int main(int count, char **arguments) {
  size = count == 2 ? atoi(arguments[1]) : 0;
  if (size < 2 || size > MOST_RANKS) {
    fprintf(stderr, "give the number of ranks, 2 to %d\n", MOST_RANKS);
    return 2;
  }
  static int ends[MOST_RANKS][MOST_RANKS];
  for (int first = 0; first < size; first++)
    for (int second = first + 1; second < size; second++) connect_pair(ends[first][second], ends[second][first]);
  for (own = size - 1; own > 0; own--)
    if (!fork()) break;  // a process for each rank; this one is rank 0
  for (int peer = 0; peer < size; peer++) connections[peer] = ends[own][peer];
  measure();
  if (!own)
    while (wait(nullptr) > 0) {
    }
}
