// What the child's Python calls about batches and rounds of experts (child/books.py). A part of books.cpp, where C's names
// are.
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
static bool round_over() {  // with both locks; whether it was counted
  if (!g_holding) return false;
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
  return is_known;
}
bool books_round() {
  std::scoped_lock guard(g_lock, g_trace_lock);
  bool is_known = round_over();
  g_deeds.card = g_deeds.cpu = g_deeds.questions = g_deeds.large_taken = g_deeds.large_given = 0;
  g_begun = {0, 0, g_deeds.held, 0, 0, g_live, g_allocs};
  g_holding = true;
  recorded_round();
  return is_known;
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
