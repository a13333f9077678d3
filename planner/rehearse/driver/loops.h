// What the child's Python calls about batches, rounds of experts, and calls that are played (child/books.py). A part of
// books.cpp, where C's names are.
// A batch begins: what was done since the one before began.
void books_batch(Deeds* done) {
  if (g_holding) books_rounds_over();
  uint64_t blocks = 0;  // larger than what was asked for, where what was left of one was too small for a block of its own
  for (int card = 0; card < c10::cuda::device_count(); card++) {
    auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(card);
    blocks = mixed(mixed(blocks, stats.allocated_bytes[0].current), stats.inactive_split_bytes[0].current);
  }
  std::scoped_lock guard(g_lock, g_trace_lock);
  write({BATCH, 0, 0, 0, 0, 0});
  *done = g_deeds;
  done->held = mixed(g_deeds.held, blocks);
  done->change = g_live - g_batch_live;
  done->rise = g_batch_peak - g_batch_live;
  g_batch_live = g_batch_peak = g_live;
  uint64_t held = g_deeds.held;
  g_deeds = {};
  g_deeds.held = held;
}
// A round begins: a piece of work within which nothing is counted, and that may be like the one before. Rounds that left
// all as it was, and did what the two before did, are not written but counted.
struct Round { uint64_t card, cpu, held, questions, large; int64_t live; uint32_t allocs; };
static Round g_begun = {}, g_written[2] = {};
static uint32_t g_rounds = 0, g_again = 0;
static void round_over() {  // with both locks
  if (!g_holding) return;
  g_holding = false;
  Round done = {g_deeds.card, g_deeds.cpu, g_deeds.held, g_deeds.questions, g_deeds.large_taken + g_deeds.large_given, g_live, 0};
  bool is_calm = done.held == g_begun.held && done.live == g_begun.live && !done.questions && !done.large;
  bool is_known = g_rounds > 1 && is_calm;
  for (auto& each : g_written) is_known &= each.card == done.card && each.cpu == done.cpu && each.held == done.held;
  if (is_known) { g_again++; g_allocs = g_begun.allocs; }
  else {
    write({BATCH, 0, 0, 0, 0, 0});
    if (g_again) write({AGAIN, 0, 0, g_again, 1, 0});
    g_again = 0;
    for (const Event& each : g_round) write(each);
    g_written[0] = g_written[1];
    g_written[1] = done;
    g_rounds++;
  }
  g_round.clear();
}
void books_round() {
  std::scoped_lock guard(g_lock, g_trace_lock);
  round_over();
  g_deeds.card = g_deeds.cpu = g_deeds.questions = g_deeds.large_taken = g_deeds.large_given = 0;
  g_begun = {0, 0, g_deeds.held, 0, 0, g_live, g_allocs};
  g_holding = true;
  recorded_round();
}
void books_rounds_over() {
  std::scoped_lock guard(g_lock, g_trace_lock);
  round_over();
  if (g_again) { write({BATCH, 0, 0, 0, 0, 0}); write({AGAIN, 0, 0, g_again, 1, 0}); }
  g_rounds = g_again = 0;
  write({ROUNDS_END, 0, 0, 0, 0, 0});
}
void books_again(uint32_t batches, uint32_t times) { note(AGAIN, 0, times, batches, 0); }
void books_rounds_end() { note(ROUNDS_END, 0, 0, 0, 0); }
// A batch that is passed over, or a call that is played, would have risen so far.
void books_rise(int64_t bytes) {
  std::lock_guard<std::mutex> guard(g_lock);
  g_peak = std::max(g_peak, g_live + bytes);
  for (Recording& each : g_recordings) each.peak = std::max(each.peak, g_live + bytes);
}
uint32_t books_origin(void* p) { std::lock_guard<std::mutex> guard(g_trace_lock); auto it = g_cpu_origins.find(p); return it == g_cpu_origins.end() ? 0 : it->second; }
void books_made_at(uint32_t origin) { t_origin = origin; }  // until it is 0 again
void books_asked() { std::lock_guard<std::mutex> guard(g_trace_lock); g_deeds.questions++; for (Recording& each : g_recordings) each.plain = false; write({ASKED, 0, 0, 0, 0, 0}); }
// Of a storage's numbers, 0 where they are not known.
uint64_t books_numbers(void* p, uint64_t bytes, int on_card) {
  std::lock_guard<std::mutex> guard(g_lock);
  if (bytes > SMALL || (on_card ? !g_known_gpu.count(p) : g_unknown_cpu.count(p) > 0)) return 0;
  uint64_t sum = 1;
  for (uint64_t i = 0; i < bytes; i += 8) { uint64_t word = 0; memcpy(&word, (char*)p + i, std::min<uint64_t>(8, bytes - i)); sum = mixed(sum, word); }
  return sum | 1;
}

struct Recorded { uint64_t hash, cpu, large, survivors, plain; int64_t change, rise; };
void books_record() {
  std::scoped_lock guard(g_lock, g_trace_lock);
  g_recordings.emplace_back();
  g_recordings.back().live = g_recordings.back().peak = g_live;
}
void books_recorded(Recorded* done) {
  std::scoped_lock guard(g_lock, g_trace_lock);
  Recording& r = g_recorded = std::move(g_recordings.back());
  g_recordings.pop_back();
  *done = {r.hash, r.cpu, r.large, r.alive.size(), r.plain, g_live - r.live, r.peak - r.live};
}
// The most that the driver is asked for while this is played. A segment is taken where no free block does: each that was
// taken for such a size before has a block in it that is alive, of all those of its pool (CUDACachingAllocator.cpp: up to
// 1 MiB in segments of 2 MiB). Under settings of the user's a free block may not do: then each tensor may have its own.
static uint64_t most_needed(const std::vector<Ask>& asks) {
  constexpr uint64_t MiB = 1 << 20;
  static const char* settings = getenv("PYTORCH_ALLOC_CONF");  // planner/rehearse/run.py: all that hold
  uint64_t alive[2] = {}, most[2] = {}, all = 0, sizes = 0;
  std::unordered_set<uint64_t> seen;
  for (const Ask& ask : asks) {
    if (ask.deed == ROUND) continue;
    bool is_large = asks[ask.which].bytes > MiB;
    if (ask.deed == GIVEN) { alive[is_large]--; continue; }
    uint64_t segment = (ask.bytes + 32 * MiB) & ~(2 * MiB - 1);
    all += segment;
    if (is_large && seen.insert(ask.bytes).second) sizes += segment;
    most[is_large] = std::max(most[is_large], ++alive[is_large]);
  }
  return settings && *settings ? all : most[0] * 2 * MiB + most[1] * sizes;
}
// What was recorded last is played under this number from now on (-1: a new one), which is returned. Its tensors that
// outlive it, by the order of their birth.
int64_t books_keep(int64_t number, uint64_t* addresses, uint64_t most) {
  std::scoped_lock guard(g_lock, g_trace_lock);
  if (number < 0) number = g_kept_ever++;
  Kept kept;
  kept.asks = g_recorded.asks;
  std::vector<std::pair<uint32_t, uint64_t>> found;
  for (auto& each : g_recorded.alive) found.emplace_back(each.second, each.first);
  std::sort(found.begin(), found.end());
  for (size_t i = 0; i < found.size() && i < most; i++) {
    addresses[i] = found[i].second;
    auto known = g_known_gpu.find((void*)found[i].second);
    kept.survivors[found[i].first] = known == g_known_gpu.end() ? "" : std::string((const char*)known->first, known->second);
  }
  kept.needed = most_needed(kept.asks);
  g_kept[number] = std::move(kept);
  return number;
}
// Nobody plays this call any more.
void books_drop(int64_t number) { std::lock_guard<std::mutex> guard(g_trace_lock); g_kept.erase(number); }
static const Kept& kept_call(int64_t number) { std::lock_guard<std::mutex> guard(g_trace_lock); return g_kept.at(number); }
// The driver has so much left that whatever the call asks for is there.
int books_has_room(int64_t number) {
  static auto information = (int (*)(size_t*, size_t*))dlsym(RTLD_DEFAULT, "cudaMemGetInfo");
  size_t free = 0, total = 0;
  if (!information || c10::cuda::current_device() != 0 || c10::cuda::getCurrentCUDAStream().stream() || information(&free, &total)) return 0;
  return free > kept_call(number).needed;
}
// The tensor that was taken at this place has the numbers that the call's own had.
void books_know(int64_t number, int64_t place, void* p) {
  const Kept& kept = kept_call(number);
  const std::string& numbers = kept.survivors.at(kept.asks[place].which);
  std::lock_guard<std::mutex> guard(g_lock);
  memcpy(p, numbers.data(), numbers.size());
  g_known_gpu[p] = numbers.size();
}
// Blocks that a call still holds that was not played to its end.
static void give_back_played() {
  for (void*& block : g_played) if (block) { c10::cuda::CUDACachingAllocator::raw_delete(block); block = nullptr; }
}
// Play on from this place to where the next tensor is taken that outlives the call, or to the end: that place. Whoever
// calls takes that tensor. -1: memory ran out.
int64_t books_play(int64_t number, int64_t place, uint32_t* origin) {
  const Kept& kept = kept_call(number);
  if (!place) { give_back_played(); g_played.assign(kept.asks.size(), nullptr); }
  try {
    for (; place < (int64_t)kept.asks.size(); place++) {
      const Ask& ask = kept.asks[place];
      if (ask.deed == ROUND) { books_round(); continue; }
      if (ask.deed == GIVEN) { c10::cuda::CUDACachingAllocator::raw_delete(g_played[ask.which]); g_played[ask.which] = nullptr; continue; }
      if (kept.survivors.count(ask.which)) { *origin = ask.origin; return place; }
      g_played[ask.which] = c10::cuda::CUDACachingAllocator::raw_alloc(ask.bytes);
      std::vector<Unnamed> unnamed;
      unnamed.swap(t_unnamed);
      for (auto& each : unnamed) {
        note(ORIGIN, 0, each.serial, ask.origin, 0);
        std::lock_guard<std::mutex> guard(g_trace_lock);
        recorded_origin(each.serial, ask.origin);
      }
    }
  } catch (const std::exception&) { give_back_played(); return -1; }
  return place;
}
