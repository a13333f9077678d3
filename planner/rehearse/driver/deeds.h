// What is written into the trace, what batches do, and calls that are recorded. A part of books.cpp.
// ------------------------------------------------------------------ the trace
enum Action : uint8_t { ALLOC, FREE, FREED, SEGMENT, SEGMENT_FREE, OUT_OF_MEMORY, MARK, ORIGIN, CPU_ALLOC, CPU_FREE, ASKED, BATCH, AGAIN, ROUNDS_END, LAYOUT, BLOCK };
struct Event { uint8_t action, device; uint16_t stream; uint32_t number; uint64_t bytes, address; };
static_assert(sizeof(Event) == 24, "planner/rehearse/trace.py reads 24 bytes");
static FILE* g_trace = nullptr;
static FILE* g_origins = nullptr;
static std::mutex g_trace_lock;
static uint32_t g_allocs = 0;           // serial of what is allocated, device and CPU together
struct Unnamed { uint32_t serial; void* cpu; };
static thread_local std::vector<Unnamed> t_unnamed;   // large allocations of the running operator
static thread_local uint32_t t_origin = 0;           // where they are from, if that is said; 0: whoever runs
static std::unordered_map<void*, uint32_t> g_cpu_origins;  // of large CPU tensors
static std::unordered_map<void*, uint16_t> g_streams;

static uint16_t stream_number(void* stream) {
  if (!stream) return 0;
  return g_streams.try_emplace(stream, (uint16_t)(g_streams.size() + 1)).first->second;
}
static bool g_holding = false;             // a round is open: whether it is written is known when the next one begins
static std::vector<Event> g_round;
static void write(const Event& event) {
  if (!g_trace) return;
  if (g_holding) g_round.push_back(event); else fwrite(&event, sizeof event, 1, g_trace);
}
static void note(uint8_t action, int device, uint32_t number, uint64_t bytes, uint64_t address) {
  std::lock_guard<std::mutex> guard(g_trace_lock);
  write({action, (uint8_t)device, 0, number, bytes, address});
}

// ------------------------------------------------------------------ what batches do
// Equal numbers: the same was asked for in the same order; what is given back counts by how long ago it was taken.
struct Deeds { uint64_t card, held, questions, cpu, large_taken, large_given; int64_t change, rise; };
static Deeds g_deeds = {};              // since the last batch began; `held` is what lies on the cards, ever
static int64_t g_batch_live = 0, g_batch_peak = 0;
static uint64_t mixed(uint64_t sum, uint64_t value) { sum = (sum ^ value) * 0x9E3779B97F4A7C15ull; return sum ^ (sum >> 29); }
static uint64_t g_card_allocs = 0;
static std::unordered_map<uint64_t, uint64_t> g_taken;  // by address and card: which tensor it was, counted
static void did_on_card(const Event& e) {  // with g_trace_lock
  if (e.action == FREE) return;
  if (e.action != ALLOC && e.action != FREED) { g_deeds.questions++; return; }
  uint64_t where = mixed(mixed(e.device, e.address), 1), ago = 0;
  if (e.action == ALLOC) g_taken[where] = ++g_card_allocs;
  else { auto it = g_taken.find(where); if (it != g_taken.end()) { ago = 1 + g_card_allocs - it->second; g_taken.erase(it); } }
  g_deeds.card = mixed(mixed(g_deeds.card, e.action | e.device << 8 | (uint64_t)e.stream << 16), e.action == ALLOC ? e.bytes : ago);
  uint64_t block = mixed(where, e.bytes);
  g_deeds.held += e.action == ALLOC ? block : -block;
}

// ------------------------------------------------------------------ calls that are played again
// What a call asks of the card: tensors by their number in the call. It is played to the same allocator. Where a round
// begins within it, that is a deed, too.
enum Deed : uint8_t { TAKEN, GIVEN, ROUND };
struct Ask { uint64_t bytes; uint32_t which, origin, serial; Deed deed; };
struct Recording { bool plain = true; uint64_t hash = 0, cpu = 0, large = 0; int64_t live = 0, peak = 0; std::vector<Ask> asks; std::unordered_map<uint64_t, uint32_t> alive; };
static std::vector<Recording> g_recordings;  // of calls that are being run: each of the one before it
static Recording g_recorded;                 // of the one that ended last
struct KeptRound { size_t begin; std::vector<uint32_t> there; bool is_again; };
struct Kept { std::vector<Ask> asks; std::unordered_map<uint32_t, std::string> survivors; std::vector<KeptRound> rounds; uint64_t needed = 0; };  // survivors: their numbers, where known
static std::unordered_map<int64_t, Kept> g_kept;  // by number
static int64_t g_kept_ever = 0;
static std::vector<void*> g_played;      // blocks of the call that is being played, by number
static void put_on_record(Recording& r, const Event& e) {
  if (e.device || e.stream || (e.action != ALLOC && e.action != FREED)) { r.plain = false; return; }
  uint32_t which = (uint32_t)r.asks.size();
  if (e.action == FREED) {
    auto it = r.alive.find(e.address);
    if (it == r.alive.end()) { r.plain = false; return; }  // it gives back what others took
    which = it->second;
    r.alive.erase(it);
  } else r.alive[e.address] = which;
  r.asks.push_back({e.bytes, which, 0, e.number, e.action == ALLOC ? TAKEN : GIVEN});
  r.hash = mixed(mixed(mixed(r.hash, e.bytes), which), e.action);
}
static void recorded_on_card(const Event& e) {  // with g_trace_lock
  if (e.action == FREE || e.action == SEGMENT || e.action == SEGMENT_FREE) return;
  for (Recording& each : g_recordings) put_on_record(each, e);
}
static void recorded_round() {  // with g_trace_lock
  for (Recording& each : g_recordings) { each.asks.push_back({0, 0, 0, 0, ROUND}); each.hash = mixed(each.hash, ROUND); }
}
static void recorded_on_cpu(uint64_t bytes, bool is_taken, int64_t live) {
  for (Recording& each : g_recordings) { each.cpu = mixed(each.cpu, bytes << 1 | !is_taken); each.large += bytes >= NAMED; each.peak = std::max(each.peak, live); }
}
static void recorded_origin(uint32_t serial, uint32_t origin) {  // with g_trace_lock; numbers come again with each round
  for (Recording& each : g_recordings)
    for (auto ask = each.asks.rbegin(); ask != each.asks.rend(); ++ask) if (ask->serial == serial) { ask->origin = origin; break; }
}
