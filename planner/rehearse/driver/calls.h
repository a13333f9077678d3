// What the child's Python calls about calls that are played (child/calls.py). A part of books.cpp, where C's names are.
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
// The allocator has settings of the user's: all that hold are in this variable (planner/rehearse/run.py).
static bool is_set() { static const char* settings = getenv("PYTORCH_ALLOC_CONF"); return settings && *settings; }
// The most that the driver is asked for while this is played. A segment is taken where no free block does: each that was
// taken for such a size before has a block in it that is alive, of all those of its pool (CUDACachingAllocator.cpp: up to
// 1 MiB in segments of 2 MiB). Under settings of the user's a free block may not do: then each tensor may have its own.
static uint64_t most_needed(const std::vector<Ask>& asks) {
  constexpr uint64_t MiB = 1 << 20;
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
  return is_set() ? all : most[0] * 2 * MiB + most[1] * sizes;
}
// Which tensors are there that do not outlive the call, when each of its rounds begins, and which rounds do what the one
// before did: they take and give back the same, and leave as much to the next.
static void find_rounds(Kept& kept) {
  std::set<uint32_t> there;
  for (size_t place = 0; place < kept.asks.size(); place++) {
    const Ask& ask = kept.asks[place];
    if (ask.deed == ROUND) kept.rounds.push_back({place, {there.begin(), there.end()}, false});
    else if (ask.deed == GIVEN) there.erase(ask.which);
    else if (!kept.survivors.count(ask.which)) there.insert(ask.which);
  }
  for (size_t number = 1; number + 1 < kept.rounds.size(); number++) {
    KeptRound &before = kept.rounds[number - 1], &round = kept.rounds[number], &after = kept.rounds[number + 1];
    const size_t length = round.begin - before.begin;
    round.is_again = after.begin - round.begin == length && after.there.size() == round.there.size();
    for (size_t i = 0; round.is_again && i < round.there.size(); i++)
      round.is_again = after.there[i] == round.there[i] + (round.there[i] < before.begin ? 0 : length);
    for (size_t i = 1; round.is_again && i < length; i++) {
      const Ask &then = kept.asks[before.begin + i], &now = kept.asks[round.begin + i];
      round.is_again = then.deed == now.deed && then.bytes == now.bytes && then.which + length == now.which && !kept.survivors.count(now.which);
    }
  }
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
  find_rounds(kept);
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
// A round of a call begins. Where the one that is over was counted, and found and left each block where the one before had,
// all that follow and do the same would find and leave them there, too: they are counted, and nobody asks the allocator.
// Where the next round begins that is played.
struct Playing { size_t round = 0; std::vector<void*> found; };
static Playing g_playing;
static int64_t begin_round(const Kept& kept) {
  const bool is_known = books_round();
  size_t round = g_playing.round;
  std::vector<void*> now;
  for (uint32_t which : kept.rounds[round].there) now.push_back(g_played[which]);
  const bool is_calm = is_known && round && kept.rounds[round - 1].is_again && now == g_playing.found && !is_set() && g_recordings.empty();
  size_t next = round;
  while (is_calm && kept.rounds[next].is_again) next++;
  for (uint32_t which : kept.rounds[round].there) g_played[which] = nullptr;
  for (size_t i = 0; i < now.size(); i++) g_played[kept.rounds[next].there[i]] = now[i];
  { std::lock_guard<std::mutex> guard(g_trace_lock); g_again += next - round; }
  g_playing = {next + 1, std::move(now)};
  return kept.rounds[next].begin;
}
// Play on from this place to where the next tensor is taken that outlives the call, or to the end: that place. Whoever
// calls takes that tensor. -1: memory ran out.
int64_t books_play(int64_t number, int64_t place, uint32_t* origin) {
  const Kept& kept = kept_call(number);
  if (!place) { give_back_played(); g_played.assign(kept.asks.size(), nullptr); g_playing = {}; }
  try {
    for (; place < (int64_t)kept.asks.size(); place++) {
      const Ask& ask = kept.asks[place];
      if (ask.deed == ROUND) { place = begin_round(kept); continue; }
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
