// Where all blocks of the cards lie when a step ends. A part of books.cpp.
// Written only if a segment is taken before the next step ends: up to there every card that is large enough for what has
// been taken by then looks the same, so whoever asks a smaller card for all that follows may begin here.
static std::vector<Event> g_layout;  // of the last step's end; behind the trace's lock
static void keep_layout(uint32_t mark) {
  std::vector<Event> rows;
  try {
    auto found = c10::cuda::CUDACachingAllocator::snapshot();  // takes the allocator's lock, and so comes first
    std::lock_guard<std::mutex> guard(g_trace_lock);
    rows.push_back({LAYOUT, 0, 0, mark, 0, 0});
    for (const auto& segment : found.segments) {
      uint64_t address = segment.address;
      for (const auto& block : segment.blocks) {
        rows.push_back({BLOCK, (uint8_t)segment.device, stream_number((void*)segment.stream), (uint32_t)(block.allocated | block.active << 1 | segment.is_large << 2), block.size, address});
        address += block.size;
      }
    }
    g_layout.swap(rows);
  } catch (const std::exception&) {}  // then nobody begins here
}
static void write_layout() {  // with g_trace_lock; past a round that is open, whose events may never be written
  if (g_trace && !g_layout.empty()) fwrite(g_layout.data(), sizeof(Event), g_layout.size(), g_trace);
  g_layout.clear();
}
