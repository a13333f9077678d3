// What a rehearsal knows of tensors: who holds how much, where from, and which values are real.
//
// CPU tensors get their memory here: large ones are address space that nobody touches. What PyTorch's CUDA caching
// allocator does is written down, event by event, into the trace. Every operator below autograd passes through
// `every_operator` (dispatch key Fake, which nothing else uses):
//   on the card    the real CUDA operator runs, over a driver that launches no kernel. Small tensors whose values follow
//                  from known ones (token ids, masks, grids) are computed beside it, on the CPU, in the same memory.
//   on the CPU     operators on large tensors run on Meta kernels, and their results are address space.
// Whatever depends on weights or activations is unknown. Code that asks for an unknown value gets the answer of a
// healthy run, by the rules of tests/meter: falling numbers, 0, False, True for `all`, `==` and `isfinite`, and a mask
// that selects its balanced share.
#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/count_nonzero.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/index.h>
#include <ATen/ops/nonzero.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <torch/library.h>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <mutex>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace rehearsal {
using at::Tensor;
using c10::DispatchKey;
using c10::IValue;
using torch::jit::Stack;

constexpr size_t SMALL = 1 << 20;    // storages up to this size may have known values
constexpr size_t SMALL_FRACTIONS = 1 << 16;
constexpr size_t NAMED = 1 << 20;    // tensors from this size on are written into the trace with their origin

#include "deeds.h"
#include "layouts.h"

static std::mutex g_lock;
static std::unordered_map<void*, size_t> g_cpu;          // CPU storages that were taken here

// ------------------------------------------------------------------ origins: the script's own lines
// Python's C functions by name, so that Python's headers are not needed.
extern "C" {
using Object = void;
struct Python {
  int (*is_ready)(); int (*ensure)(); void (*release)(int); Object* (*state)(); Object* (*frame)(Object*); Object* (*back)(Object*);
  Object* (*code)(Object*); int (*line)(Object*); int (*place)(Object*); Object* (*attribute)(Object*, const char*); const char* (*text)(Object*); void (*drop)(Object*);
};
}
static Python g_python;
struct Code { std::string text; bool shown, script; };
static std::unordered_map<Object*, Code> g_codes;
static std::unordered_map<std::string, uint32_t> g_origin_ids;
static std::string g_script, g_own;

template <class F> static void find(F& function, const char* name) { function = (F)dlsym(RTLD_DEFAULT, name); }
static void find_python() {
  find(g_python.is_ready, "Py_IsInitialized"); find(g_python.ensure, "PyGILState_Ensure"); find(g_python.release, "PyGILState_Release");
  find(g_python.state, "PyThreadState_Get"); find(g_python.frame, "PyThreadState_GetFrame"); find(g_python.back, "PyFrame_GetBack");
  find(g_python.code, "PyFrame_GetCode"); find(g_python.line, "PyFrame_GetLineNumber"); find(g_python.attribute, "PyObject_GetAttrString");
  find(g_python.place, "PyFrame_GetLasti");  // Python 3.11
  if (!g_python.place) g_python.place = g_python.line;
  find(g_python.text, "PyUnicode_AsUTF8"); find(g_python.drop, "Py_DecRef");
}
static std::string text_of(Object* code, const char* name) {
  Object* value = g_python.attribute(code, name);
  const char* text = value ? g_python.text(value) : nullptr;
  std::string copy = text ? text : "";
  if (value) g_python.drop(value);
  return copy;
}
static const Code& known_code(Object* code, bool* is_new) {
  auto it = g_codes.find(code);
  if ((*is_new = it == g_codes.end())) {
    std::string file = text_of(code, "co_filename"), name = text_of(code, "co_name");
    bool is_ours = file.rfind(g_own, 0) == 0 && file.find("/child/models.py") == std::string::npos;
    bool inner = file.find("/torch/") != std::string::npos || is_ours || file[0] == '<';
    it = g_codes.emplace(code, Code{file + "\t" + name, !inner, file == g_script}).first;
  }
  return it->second;
}
static std::string json(const std::string& text) {
  std::string out = "\"";
  for (char c : text) { if (c == '"' || c == '\\') out += '\\'; if ((unsigned char)c >= 32) out += c; else { char b[8]; snprintf(b, sizeof b, "\\u%04x", c); out += b; } }
  return out + "\"";
}
// Innermost six frames of libraries, and every frame of the script: file, line, function. Where in which code is what is
// looked at each time; lines and names are made out once for each such stack.
using Stack64 = std::vector<uint64_t>;
struct HashStack { size_t operator()(const Stack64& stack) const { size_t h = stack.size(); for (uint64_t v : stack) h = (h ^ v) * 0x9E3779B97F4A7C15ull; return h ^ (h >> 29); } };
static std::unordered_map<Stack64, uint32_t, HashStack> g_stacks;  // behind Python's lock

static uint32_t origin_of(const std::string& key) {
  std::lock_guard<std::mutex> guard(g_trace_lock);
  auto [it, fresh] = g_origin_ids.try_emplace(key, (uint32_t)g_origin_ids.size() + 1);
  if (fresh && g_origins) { fprintf(g_origins, "{\"origin\": %u, \"frames\": %s}\n", it->second, json(key).c_str()); fflush(g_origins); }
  return it->second;
}
template <class F> static void each_shown_frame(F&& f) {
  Object* frame = g_python.frame(g_python.state());
  for (int depth = 0, kept = 0; frame && depth < 150; depth++) {
    Object* code = g_python.code(frame);
    bool is_new;
    const Code& known = known_code(code, &is_new);
    if ((known.shown && kept < 6) || known.script) { f(code, known, frame); kept++; }
    if (!is_new) g_python.drop(code);  // a new one is kept, so that its address stays its own
    Object* back = g_python.back(frame);
    g_python.drop(frame);
    frame = back;
  }
  if (frame) g_python.drop(frame);
}
static uint32_t origin() {
  if (!g_python.is_ready || !g_python.is_ready()) return 0;
  int gil = g_python.ensure();
  Stack64 stack;
  stack.reserve(24);
  each_shown_frame([&](Object* code, const Code&, Object* frame) { stack.push_back((uint64_t)code); stack.push_back((uint64_t)g_python.place(frame)); });
  auto it = g_stacks.find(stack);
  if (it == g_stacks.end()) {
    std::string key;
    each_shown_frame([&](Object*, const Code& known, Object* frame) { key += known.text + "\t" + std::to_string(g_python.line(frame)) + "\n"; });
    it = g_stacks.emplace(std::move(stack), origin_of(key)).first;
  }
  uint32_t found = it->second;
  g_python.release(gil);
  return found;
}
static void name_allocations() {
  if (t_unnamed.empty()) return;
  std::vector<Unnamed> unnamed;
  unnamed.swap(t_unnamed);
  uint32_t where = t_origin ? t_origin : origin();
  for (const Unnamed& each : unnamed) {
    note(ORIGIN, 0, each.serial, where, 0);
    std::scoped_lock guard(g_lock, g_trace_lock);
    if (each.cpu) { if (g_cpu.count(each.cpu)) g_cpu_origins[each.cpu] = where; }  // else it has been given back
    else recorded_origin(each.serial, where);
  }
}

// ------------------------------------------------------------------ which values are known
static std::unordered_set<void*> g_unknown_cpu;          // small ones whose values are not known
static std::unordered_map<void*, size_t> g_known_gpu;    // small ones on the card whose values are known
static std::unordered_set<void*> g_truths;               // unknown one-element bools to be read as True
static std::unordered_set<void*> g_never_all;            // unknown fractions == 0: not all of them are
static int64_t g_live = 0, g_peak = 0, g_floats_read = 0;
static double g_selected = 0;                            // share of "true" in a mask whose values are unknown

static void* address(const Tensor& t) { return t.storage().unsafeGetStorageImpl()->mutable_data_ptr().get(); }
static bool has_memory(const Tensor& t) { return t.defined() && t.has_storage() && (t.is_cuda() || t.is_cpu()); }
static bool is_large(const Tensor& t) { return t.storage().nbytes() > SMALL; }
static bool is_known(const Tensor& t) {
  if (is_large(t)) return false;
  if (t.storage().nbytes() == 0) return true;
  std::lock_guard<std::mutex> guard(g_lock);
  return t.is_cuda() ? g_known_gpu.count(address(t)) > 0 : !g_unknown_cpu.count(address(t));
}
static void set_known(const Tensor& t, bool known) {
  if (!has_memory(t) || is_large(t) || !t.storage().nbytes()) return;
  std::lock_guard<std::mutex> guard(g_lock);
  void* where = address(t);
  g_truths.erase(where);
  g_never_all.erase(where);
  if (t.is_cuda()) {
    if (known) g_known_gpu[where] = t.storage().nbytes();
    else if (g_known_gpu.erase(where)) memset(where, 0, t.storage().nbytes());  // what is not known reads as zeros, and who gets it next
  }
  else if (known) g_unknown_cpu.erase(where); else g_unknown_cpu.insert(where);
}
static bool is_truth(const Tensor& t) { std::lock_guard<std::mutex> guard(g_lock); return g_truths.count(address(t)) > 0; }
static bool covers_storage(const Tensor& t) { return t.is_non_overlapping_and_dense() && t.nbytes() == t.storage().nbytes(); }

// ------------------------------------------------------------------ CPU memory
static void cpu_delete(void* p) {
  if (!p) return;
  size_t bytes;
  {
    std::lock_guard<std::mutex> guard(g_lock);
    auto it = g_cpu.find(p);
    bytes = it->second;
    g_cpu.erase(it);
    g_unknown_cpu.erase(p); g_truths.erase(p); g_never_all.erase(p);
    g_live -= bytes;
    g_deeds.cpu = mixed(g_deeds.cpu, bytes << 1 | 1);
    recorded_on_cpu(bytes, false, g_live);
    g_deeds.large_given += bytes >= NAMED;
  }
  if (bytes >= NAMED) {
    { std::lock_guard<std::mutex> guard(g_trace_lock); g_cpu_origins.erase(p); }
    note(CPU_FREE, 0, 0, bytes, (uint64_t)p);
    munmap(p, bytes);
  } else free(p);
}
struct Cpu final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* p = nullptr;
    if (bytes >= NAMED) {
      p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      TORCH_CHECK(p != MAP_FAILED, "planner rehearse: cannot reserve ", bytes, " bytes of address space");
    } else if (bytes) {
      TORCH_CHECK(posix_memalign(&p, 64, bytes) == 0, "planner rehearse: cannot allocate ", bytes, " bytes");
    }
    if (p) taken(p, bytes);
    return {p, p, &cpu_delete, at::Device(at::kCPU)};
  }
  static void taken(void* p, size_t bytes) {
    int64_t live;
    {
      std::lock_guard<std::mutex> guard(g_lock);
      g_cpu[p] = bytes;
      live = g_live += bytes;
      if (live > g_peak) g_peak = live;
      if (live > g_batch_peak) g_batch_peak = live;
      g_deeds.cpu = mixed(g_deeds.cpu, bytes << 1);
      recorded_on_cpu(bytes, true, live);
      g_deeds.large_taken += bytes >= NAMED;
    }
    if (bytes < NAMED) return;
    std::lock_guard<std::mutex> guard(g_trace_lock);
    write({CPU_ALLOC, 0, 0, ++g_allocs, bytes, (uint64_t)p});
    t_unnamed.push_back({g_allocs, p});
  }
  at::DeleterFnPtr raw_deleter() const override { return &cpu_delete; }
  void copy_data(void* d, const void* s, size_t n) const override { if (n < NAMED) memcpy(d, s, n); }
};
static Cpu g_cpu_allocator;

// ------------------------------------------------------------------ the card
using Entry = c10::cuda::CUDACachingAllocator::TraceEntry;
// Called with the allocator's lock: no Python, no PyTorch.
static void on_card(const Entry& e) {
  if (e.action_ == Entry::FREE_COMPLETED) {  // memory without values reads as zeros, whoever gets which part of it
    std::lock_guard<std::mutex> guard(g_lock);
    auto it = g_known_gpu.find((void*)e.addr_);
    if (it != g_known_gpu.end()) { memset(it->first, 0, it->second); g_known_gpu.erase(it); }
    g_truths.erase((void*)e.addr_);
    g_never_all.erase((void*)e.addr_);
  }
  std::lock_guard<std::mutex> guard(g_trace_lock);
  auto put = [&](Action action, uint32_t number) {
    Event event = {action, (uint8_t)e.device_, stream_number(e.stream_), number, (uint64_t)e.size_, (uint64_t)e.addr_};
    did_on_card(event);
    recorded_on_card(event);
    write(event);
  };
  switch (e.action_) {
    case Entry::ALLOC: put(ALLOC, ++g_allocs); if (e.size_ >= NAMED) t_unnamed.push_back({g_allocs, nullptr}); break;
    case Entry::FREE_COMPLETED: put(FREED, 0); break;
    case Entry::SEGMENT_ALLOC: write_layout(); put(SEGMENT, 0); break;
    case Entry::SEGMENT_FREE: put(SEGMENT_FREE, 0); break;
    case Entry::OOM: put(OUT_OF_MEMORY, 0); break;
    default: break;
  }
}

// ------------------------------------------------------------------ aliases
// CPU or Meta tensors of the geometry of others; CPU ones over the same memory, the card's included.
struct Alias { Tensor original, alias; };
using Aliases = std::vector<Alias>;
static Tensor make_alias(const Tensor& t, Aliases& all, bool meta) {
  for (auto& a : all) if (a.original.unsafeGetTensorImpl() == t.unsafeGetTensorImpl()) return a.alias;
  const auto& storage = t.storage();
  c10::Storage shared;
  for (auto& a : all) if (a.original.storage().unsafeGetStorageImpl() == storage.unsafeGetStorageImpl()) { shared = a.alias.storage(); break; }
  if (!shared) {
    at::Device device(meta ? at::kMeta : at::kCPU);
    shared = c10::Storage(c10::Storage::use_byte_size_t(), storage.nbytes(), at::DataPtr(meta ? nullptr : address(t), device), c10::GetAllocator(device.type()), true);
  }
  Tensor alias = at::detail::make_tensor<c10::TensorImpl>(std::move(shared), c10::DispatchKeySet(meta ? DispatchKey::Meta : DispatchKey::CPU), t.dtype());
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) alias.unsafeGetTensorImpl()->set_wrapped_number(true);
  if (t.is_neg()) alias._set_neg(true);
  all.push_back({t, alias});
  return alias;
}
static Tensor here(const Tensor& t, Aliases& all) { return t.is_cuda() ? make_alias(t, all, false) : t; }

template <class F> static void each_tensor(const IValue& v, F&& f) {
  if (v.isTensor()) { if (v.toTensor().defined()) f(v.toTensor()); }
  else if (v.isTensorList()) { for (const Tensor& t : v.toTensorVector()) if (t.defined()) f(t); }
  else if (v.isOptionalTensorList()) {
    auto list = v.toOptionalTensorList();
    for (size_t i = 0; i < list.size(); i++) { std::optional<Tensor> t = list.get(i); if (t && t->defined()) f(*t); }
  }
}
// The arguments `first` and following with each tensor and device replaced.
template <class F> static void replace_tensors(Stack& stack, size_t first, F&& f, at::Device device) {
  for (size_t i = first; i < stack.size(); i++) {
    const IValue v = stack[i];
    if (v.isTensor()) { if (v.toTensor().defined()) stack[i] = f(v.toTensor()); }
    else if (v.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : v.toTensorVector()) list.push_back(t.defined() ? f(t) : t);
      stack[i] = IValue(list);
    } else if (v.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      auto given = v.toOptionalTensorList();
      for (size_t j = 0; j < given.size(); j++) { std::optional<Tensor> t = given.get(j); list.push_back(t && t->defined() ? std::optional<Tensor>(f(*t)) : t); }
      stack[i] = IValue(list);
    } else if (v.isDevice()) stack[i] = IValue(device);
  }
}

// ------------------------------------------------------------------ operators
enum class Reader { NONE, SCALAR, IS_NONZERO, EQUAL, NONZERO, MASKED_SELECT, INDEX, INDEX_PUT, REPEAT, COPY, RANDOM, EMPTY, FILL, METADATA, CHOLESKY, COMPILED };
struct Info { Reader reader = Reader::NONE; bool is_view = false, is_composite_cpu = false, is_composite_cuda = false, is_truth = false, is_never = false, is_count = false, all_written = false; std::vector<bool> written; };

static Reader reader_of(const std::string& name, bool is_random) {
  static const std::unordered_map<std::string, Reader> readers = {
    {"aten::_local_scalar_dense", Reader::SCALAR}, {"aten::is_nonzero", Reader::IS_NONZERO}, {"aten::equal", Reader::EQUAL}, {"aten::nonzero", Reader::NONZERO},
    {"aten::masked_select", Reader::MASKED_SELECT}, {"aten::index", Reader::INDEX}, {"aten::_index_put_impl_", Reader::INDEX_PUT}, {"aten::repeat_interleave", Reader::REPEAT},
    {"aten::copy_", Reader::COPY}, {"aten::empty", Reader::EMPTY}, {"aten::empty_strided", Reader::EMPTY}, {"aten::fill_", Reader::FILL}, {"aten::zero_", Reader::FILL},
    {"aten::set_", Reader::METADATA}, {"aten::resize_", Reader::METADATA}, {"aten::record_stream", Reader::METADATA}, {"aten::is_pinned", Reader::METADATA}, {"aten::linalg_cholesky_ex", Reader::CHOLESKY},
    // kernels that PyTorch compiles with NVRTC when they are called first (jiterator)
    {"aten::prod", Reader::COMPILED}, {"aten::gcd", Reader::COMPILED}, {"aten::lcm", Reader::COMPILED}, {"aten::i0", Reader::COMPILED}, {"aten::digamma", Reader::COMPILED},
    {"aten::lgamma", Reader::COMPILED}, {"aten::polygamma", Reader::COMPILED}, {"aten::kaiser_window", Reader::COMPILED}, {"aten::sinc", Reader::COMPILED}};
  auto it = readers.find(name);
  if (it != readers.end()) return it->second;
  return is_random ? Reader::RANDOM : Reader::NONE;
}
static Info make_info(const c10::OperatorHandle& op) {
  Info info;
  const auto& schema = op.schema();
  const std::string& name = schema.name();
  info.reader = reader_of(name, op.hasTag(at::Tag::nondeterministic_seeded));
  if (op.hasTag(at::Tag::inplace_view)) info.reader = Reader::METADATA;
  info.is_truth = name == "aten::all" || name == "aten::eq" || name == "aten::isfinite" || name == "aten::_is_all_true";
  info.is_never = name == "aten::isnan" || name == "aten::isinf";
  info.is_count = name == "aten::sum" || name == "aten::count_nonzero";
  for (const auto& a : schema.arguments()) info.written.push_back(a.alias_info() && a.alias_info()->isWrite());
  info.all_written = !schema.returns().empty() || std::count(info.written.begin(), info.written.end(), true);
  for (const auto& r : schema.returns()) {
    if (!r.alias_info()) info.all_written = false;
    else if (!r.alias_info()->isWrite()) info.is_view = true;
  }
  auto has = [&](DispatchKey key) { return op.hasKernelForDispatchKey(key); };
  bool composite = has(DispatchKey::CompositeImplicitAutograd) || has(DispatchKey::CompositeExplicitAutograd);
  info.is_composite_cpu = composite && !has(DispatchKey::CPU);
  info.is_composite_cuda = composite && !has(DispatchKey::CUDA);
  return info;
}
static const Info& info_of(const c10::OperatorHandle& op) {
  static thread_local std::unordered_map<const void*, Info> known;
  auto it = known.find(&op.schema());
  if (it == known.end()) it = known.emplace(&op.schema(), make_info(op)).first;
  return it->second;
}

struct Facts { bool cuda = false, large = false, unknown = false, foreign = false, any = false; };
static Facts facts_of(const Stack& stack, size_t first) {
  Facts facts;
  for (size_t i = first; i < stack.size(); i++) {
    if (stack[i].isDevice() && stack[i].toDevice().is_cuda()) facts.cuda = true;
    each_tensor(stack[i], [&](const Tensor& t) {
      if (t.key_set().has(DispatchKey::Python) || !has_memory(t) || t.layout() != at::kStrided) { facts.foreign = true; return; }
      facts.any = true;
      facts.cuda |= t.is_cuda();
      facts.large |= is_large(t);
      facts.unknown |= !is_known(t);
    });
  }
  return facts;
}
static void below(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, DispatchKey::Fake), stack);
}
static void quietly(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
  below(op, keys, stack);
}
static void mark_results(const Stack& stack, size_t count, bool known) {
  for (size_t i = stack.size() - count; i < stack.size(); i++) each_tensor(stack[i], [&](const Tensor& t) { set_known(t, known); });
}

// ------------------------------------------------------------------ answers
static int64_t count_selected(const Tensor& mask) {
  if (!is_known(mask)) return (int64_t)(mask.numel() * g_selected);
  c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
  Aliases aliases;
  return here(mask, aliases).count_nonzero().item<int64_t>();
}
static void answer(Stack* stack, size_t nargs, IValue value) { torch::jit::drop(*stack, nargs); torch::jit::push(*stack, std::move(value)); }

// Worth computing on the card's side: whole numbers are ids, masks and grids; larger fractions are weights and sums.
static bool is_worth(const Tensor& t) { return t.storage().nbytes() <= (at::isIntegralType(t.scalar_type(), true) ? SMALL : SMALL_FRACTIONS); }

// Where the value itself is asked for. False: not answered here.
static bool answer_value(Reader reader, Stack* stack, size_t nargs) {
  Tensor t = (*stack)[stack->size() - nargs].toTensor();
  if (is_known(t) && reader != Reader::EQUAL) {
    if (!t.is_cuda()) return false;
    c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
    Aliases aliases;
    at::Scalar value = make_alias(t, aliases, false).item();
    answer(stack, nargs, reader == Reader::SCALAR ? IValue(value) : IValue(value.toDouble() != 0));
    return true;
  }
  bool truth = is_truth(t);
  // two tensors of a healthy model are equal where they are one
  if (reader == Reader::EQUAL) answer(stack, nargs, address(t) == address(torch::jit::peek(*stack, 1, nargs).toTensor()));
  else if (reader == Reader::IS_NONZERO) answer(stack, nargs, truth);
  else if (truth) answer(stack, nargs, at::Scalar(true));
  // each one smaller than the last: a search for the smallest loss accepts every candidate
  else if (at::isFloatingType(t.scalar_type())) answer(stack, nargs, at::Scalar(1.0 / ++g_floats_read));
  else answer(stack, nargs, t.scalar_type() == at::kBool ? at::Scalar(false) : at::Scalar((int64_t)0));
  return true;
}
static void zero_index(const Tensor& t) { if (!is_large(t) && t.nbytes()) memset(address(t), 0, t.storage().nbytes()); }
// nonzero: what the operator takes beside its result is taken and given back, then the result has its true size.
static Tensor true_nonzero(const Tensor& mask) {
  bool known = is_known(mask);
  int64_t count = count_selected(mask);
  c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
  if (mask.is_cuda()) at::nonzero(mask);
  Tensor out = at::empty({count, mask.dim()}, mask.options().dtype(at::kLong));
  if (known && !is_large(out)) {
    Aliases aliases;
    if (count) here(out, aliases).copy_(at::nonzero(here(mask, aliases)));
    set_known(out, true);
  } else { zero_index(out); set_known(out, false); }
  return out;
}
static bool is_mask(const Tensor& t) { return t.scalar_type() == at::kBool || t.scalar_type() == at::kByte; }
// TensorAdvancedIndexing.cpp expandTensors: a mask becomes the columns of its nonzero, here those of the true size.
static bool spread_masks(Stack* stack, size_t place) {
  auto given = (*stack)[place].toOptionalTensorList();
  c10::List<std::optional<Tensor>> list;
  bool found = false;
  for (size_t i = 0; i < given.size(); i++) {
    std::optional<Tensor> t = given.get(i);
    if (!t || !t->defined() || !is_mask(*t)) { list.push_back(t); continue; }
    found = true;
    Tensor rows = true_nonzero(*t);
    c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
    for (int64_t d = 0; d < t->dim(); d++) list.push_back(rows.select(1, d));
  }
  if (found) (*stack)[place] = IValue(list);
  return found;
}

// ------------------------------------------------------------------ computing beside
// The same operator on the CPU, over the memory of the card; results go to where the CUDA operator put them.
// Where the values decide the size (unique, bincount), the result is another tensor.
static bool compute_beside(const c10::OperatorHandle& op, Stack args, Stack& results, size_t nret) {
  c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
  c10::impl::ExcludeDispatchKeyGuard no_grad(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
  Aliases aliases;
  try {
    replace_tensors(args, 0, [&](const Tensor& t) { return here(t, aliases); }, at::Device(at::kCPU));
    op.callBoxed(&args);
    for (size_t i = 0; i < nret; i++) {
      const IValue& ours = args[args.size() - nret + i];
      IValue& theirs = results[results.size() - nret + i];
      if (ours.isTensor() && theirs.isTensor() && ours.toTensor().defined() && ours.toTensor().sizes() != theirs.toTensor().sizes())
        theirs = at::empty(ours.toTensor().sizes(), theirs.toTensor().options());
      std::vector<Tensor> from, to;
      each_tensor(ours, [&](const Tensor& t) { from.push_back(t); });
      each_tensor(theirs, [&](const Tensor& t) { to.push_back(t); });
      if (from.size() != to.size()) return false;
      for (size_t j = 0; j < to.size(); j++) {
        if (!has_memory(to[j]) || is_large(to[j]) || from[j].sizes() != to[j].sizes()) return false;
        Tensor target = here(to[j], aliases);
        if (from[j].storage().data() != target.storage().data()) target.copy_(from[j]);
      }
    }
  } catch (const std::exception&) { return false; }
  return true;
}
static bool results_are_small(const Stack& stack, size_t nret) {
  bool small = true;
  for (size_t i = stack.size() - nret; i < stack.size(); i++) each_tensor(stack[i], [&](const Tensor& t) { small &= has_memory(t) && is_worth(t); });
  return small;
}
static void note_truth(const Info& info, const Stack& args, const Stack& stack) {
  if (!info.is_truth || stack.empty() || !stack.back().isTensor() || args.empty() || !args[0].isTensor()) return;
  const Tensor &in = args[0].toTensor(), &out = stack.back().toTensor();
  if (!has_memory(out) || out.scalar_type() != at::kBool) return;
  std::lock_guard<std::mutex> guard(g_lock);
  bool is_zero = args.size() > 1 && args[1].isScalar() && args[1].toScalar().toDouble() == 0;
  if (out.numel() > 1) { if (is_zero && at::isFloatingType(in.scalar_type())) g_never_all.insert(address(out)); return; }
  if (!has_memory(in) || !g_never_all.count(address(in))) g_truths.insert(address(out));
}

// A healthy run has no NaN and nothing infinite: the mask selects nothing, and that is known.
static bool no_such_value(const Info& info, const Stack& stack) {
  if (!info.is_never || stack.empty() || !stack.back().isTensor()) return false;
  const Tensor& out = stack.back().toTensor();
  if (!has_memory(out) || is_large(out) || !covers_storage(out)) return false;
  memset(address(out), 0, out.storage().nbytes());
  set_known(out, true);
  return true;
}
// How many an unknown mask selects is known: its share. So it agrees with the rows that nonzero finds.
static bool count_mask(const Info& info, const Stack& args, const Stack& stack) {
  if (!info.is_count || stack.empty() || !stack.back().isTensor() || args.empty() || !args[0].isTensor()) return false;
  const Tensor &mask = args[0].toTensor(), &out = stack.back().toTensor();
  if (mask.scalar_type() != at::kBool || out.numel() != 1 || !has_memory(mask) || !has_memory(out)) return false;
  int64_t count = count_selected(mask);
  c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
  Aliases aliases;
  here(out, aliases).fill_(count);
  set_known(out, true);
  return true;
}

static void on_meta(const c10::OperatorHandle& op, Stack* stack, size_t nargs, Aliases& aliases) {
  c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
  c10::impl::ExcludeDispatchKeyGuard no_grad(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
  replace_tensors(*stack, stack->size() - nargs, [&](const Tensor& t) { return t.is_cpu() && t.dim() == 0 && !is_large(t) ? t : make_alias(t, aliases, true); }, at::Device(at::kMeta));
  op.redispatchBoxed(c10::DispatchKeySet(DispatchKey::Meta), stack);
}

// ------------------------------------------------------------------ on the card
static void mark_written(const Info& info, const std::vector<IValue>& args, bool known) {
  for (size_t i = 0; i < args.size() && i < info.written.size(); i++) if (info.written[i]) each_tensor(args[i], [&](const Tensor& t) { set_known(t, known); });
}
static void copy_to_or_from_card(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack, size_t first) {
  Tensor to = (*stack)[first].toTensor(), from = (*stack)[first + 1].toTensor();
  below(op, keys, stack);  // its casts and buffers on the CPU are seen too
  bool known = is_worth(to) && !is_large(from) && is_known(from) && (is_known(to) || covers_storage(to));
  if (known) {
    c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
    c10::impl::ExcludeDispatchKeyGuard no_grad(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
    Aliases aliases;
    here(to, aliases).copy_(here(from, aliases));
  }
  set_known(to, known);
}
static void without_kernel(const c10::OperatorHandle& op, Stack* stack, size_t nargs) {
  std::optional<at::Device> card;
  for (size_t i = stack->size() - nargs; i < stack->size(); i++) each_tensor((*stack)[i], [&](const Tensor& t) { if (t.is_cuda()) card = t.device(); });
  Aliases aliases;
  on_meta(op, stack, nargs, aliases);
  c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake);
  replace_tensors(*stack, stack->size() - op.schema().returns().size(), [&](const Tensor& out) -> Tensor {
    for (auto& a : aliases) if (a.alias.unsafeGetTensorImpl() == out.unsafeGetTensorImpl()) return a.original;
    return at::empty_strided(out.sizes(), out.strides(), out.options().device(card.value_or(at::Device(at::kCUDA, 0))));
  }, card.value_or(at::Device(at::kCUDA, 0)));
}
static void on_card(const c10::OperatorHandle& op, const Info& info, c10::DispatchKeySet keys, Stack* stack, size_t nargs, const Facts& facts) {
  const size_t first = stack->size() - nargs, nret = op.schema().returns().size();
  switch (info.reader) {
    case Reader::SCALAR: case Reader::IS_NONZERO: if (answer_value(info.reader, stack, nargs)) return; break;
    case Reader::EQUAL: if (facts.unknown && answer_value(info.reader, stack, nargs)) return; break;
    case Reader::NONZERO: if (nargs == 1) { Tensor out = true_nonzero((*stack)[first].toTensor()); answer(stack, nargs, out); return; } break;
    case Reader::MASKED_SELECT: if (nargs == 2) {
      auto both = at::expand_outplace((*stack)[first].toTensor(), (*stack)[first + 1].toTensor());
      c10::List<std::optional<Tensor>> index; index.push_back(std::optional<Tensor>(*std::get<1>(both)));
      answer(stack, nargs, at::index(*std::get<0>(both), index));
      return;
    } break;
    case Reader::COPY: copy_to_or_from_card(op, keys, stack, first); return;
    case Reader::EMPTY: case Reader::METADATA: quietly(op, keys, stack); return;
    default: break;
  }
  if (info.is_view) { quietly(op, keys, stack); return; }
  if (info.is_composite_cuda) { below(op, keys, stack); return; }
  if (info.reader == Reader::INDEX && nargs == 2) spread_masks(stack, first + 1);
  if (info.reader == Reader::INDEX_PUT && (*stack)[first + 2].toTensor().numel() != 1) spread_masks(stack, first + 1);
  if (info.reader == Reader::REPEAT && nargs == 2 && (*stack)[first].isTensor() && (*stack)[first + 1].isNone()) {
    Tensor repeats = (*stack)[first].toTensor();
    if (is_known(repeats)) { Aliases aliases; c10::impl::ExcludeDispatchKeyGuard guard(DispatchKey::Fake); (*stack)[first + 1] = IValue(here(repeats, aliases).sum().item<int64_t>()); }
  }
  Stack args(stack->end() - nargs, stack->end());
  bool known = !facts.unknown && !facts.large && info.reader != Reader::RANDOM;
  if (info.reader == Reader::FILL) { const Tensor& t = args[0].toTensor(); known = is_worth(t) && (is_known(t) || covers_storage(t)); }
  if (info.reader == Reader::COMPILED) without_kernel(op, stack, nargs); else quietly(op, keys, stack);
  if (known) known = results_are_small(*stack, nret) && compute_beside(op, args, *stack, nret);
  mark_written(info, args, known);
  mark_results(*stack, nret, known);
  if (!known && !no_such_value(info, *stack) && !count_mask(info, args, *stack)) note_truth(info, args, *stack);
  if (info.reader == Reader::CHOLESKY && nret == 2) set_known((*stack)[stack->size() - 1].toTensor(), true);  // its `info` is 0: success
}

// ------------------------------------------------------------------ on the CPU
// The operator on Meta kernels; its results are address space.
static void without_values(const c10::OperatorHandle& op, Stack* stack, size_t nargs) {
  const size_t nret = op.schema().returns().size();
  Aliases aliases;
  on_meta(op, stack, nargs, aliases);
  auto wrapped = [&](const Tensor& out) -> Tensor {
    for (auto& a : aliases) if (a.alias.unsafeGetTensorImpl() == out.unsafeGetTensorImpl()) return a.original;
    Tensor fresh = at::detail::empty_strided_generic(out.sizes(), out.strides(), &g_cpu_allocator, c10::DispatchKeySet(DispatchKey::CPU), out.scalar_type());
    set_known(fresh, false);
    return fresh;
  };
  replace_tensors(*stack, stack->size() - nret, wrapped, at::Device(at::kCPU));
}
static void on_cpu(const c10::OperatorHandle& op, const Info& info, c10::DispatchKeySet keys, Stack* stack, size_t nargs, const Facts& facts) {
  const size_t first = stack->size() - nargs, nret = op.schema().returns().size();
  if (info.is_view || info.reader == Reader::EMPTY || info.reader == Reader::METADATA) { quietly(op, keys, stack); return; }
  if ((info.reader == Reader::SCALAR || info.reader == Reader::IS_NONZERO) && facts.unknown && answer_value(info.reader, stack, nargs)) return;
  if (info.reader == Reader::EQUAL && facts.unknown && answer_value(info.reader, stack, nargs)) return;
  if (info.is_composite_cpu && info.reader != Reader::COPY && info.reader != Reader::FILL) { below(op, keys, stack); return; }
  if (facts.unknown && info.reader == Reader::NONZERO && nargs == 1) { answer(stack, nargs, true_nonzero((*stack)[first].toTensor())); return; }
  if (facts.unknown && info.reader == Reader::INDEX && nargs == 2) spread_masks(stack, first + 1);
  Stack args(stack->end() - nargs, stack->end());
  if (!facts.large) {
    quietly(op, keys, stack);
    bool known = !facts.unknown;
    if (info.reader == Reader::FILL || info.reader == Reader::COPY) {
      const Tensor& t = args[0].toTensor();
      known = (info.reader == Reader::FILL || is_known(args[1].toTensor())) && (is_known(t) || covers_storage(t));
    }
    if (info.reader == Reader::RANDOM) known = true;  // samples and shuffles of the script are real
    mark_written(info, args, known);
    mark_results(*stack, nret, known);
    if (!known && !no_such_value(info, *stack) && !count_mask(info, args, *stack)) note_truth(info, args, *stack);
    return;
  }
  if (info.all_written) {  // in place: the arguments are the results
    Stack results;
    for (size_t i = 0; i < nargs && results.size() < nret; i++) if (info.written[i]) results.push_back(args[i]);
    torch::jit::drop(*stack, nargs);
    for (auto& r : results) stack->push_back(r);
    mark_written(info, args, false);
    return;
  }
  without_values(op, stack, nargs);
  note_truth(info, args, *stack);
}

static void every_operator(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  const size_t nargs = op.schema().arguments().size();
  if (c10::impl::TorchDispatchModeTLS::any_modes_set()) { below(op, keys, stack); return; }
  Facts facts = facts_of(*stack, stack->size() - nargs);
  if (facts.foreign) { below(op, keys, stack); return; }
  const Info& info = info_of(op);
  if (facts.cuda) on_card(op, info, keys, stack, nargs, facts); else on_cpu(op, info, keys, stack, nargs, facts);
  name_allocations();
}
TORCH_LIBRARY_IMPL(_, Fake, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&every_operator>()); }
}  // namespace rehearsal

// ------------------------------------------------------------------ what the child's Python calls (planner/rehearse/child/books.py)
using namespace rehearsal;
extern "C" {
void books_open(const char* trace, const char* origins, const char* script, const char* own) {
  g_trace = fopen(trace, "wb"); g_origins = fopen(origins, "w");
  setvbuf(g_trace, nullptr, _IOFBF, 1 << 20);
  g_script = script; g_own = own;
  find_python();
  c10::SetCPUAllocator(&g_cpu_allocator, 255);
  c10::cuda::CUDACachingAllocator::attachAllocatorTraceTracker([](const Entry& e) { on_card(e); });
}
void books_watch(int on) { c10::impl::tls_set_dispatch_key_included(DispatchKey::Fake, on != 0); }
void books_rounds_over();
void books_mark(uint32_t number) { if (g_holding) books_rounds_over(); note(MARK, 0, number, 0, 0); keep_layout(number); std::lock_guard<std::mutex> guard(g_trace_lock); if (g_trace) fflush(g_trace); }
#include "loops.h"
#include "calls.h"
void books_close() { if (g_holding) books_rounds_over(); std::lock_guard<std::mutex> guard(g_trace_lock); if (g_trace) fclose(g_trace); if (g_origins) fclose(g_origins); g_trace = g_origins = nullptr; }
void books_forget() { std::lock_guard<std::mutex> guard(g_trace_lock); g_trace = g_origins = nullptr; }  // in a forked child
void books_selected(double share) { g_selected = share; }
void books_unknown(void* p) { std::lock_guard<std::mutex> guard(g_lock); g_unknown_cpu.insert(p); }
int64_t books_cpu_live() { std::lock_guard<std::mutex> guard(g_lock); return g_live; }
int64_t books_cpu_peak(int restart) { std::lock_guard<std::mutex> guard(g_lock); int64_t peak = g_peak; if (restart) g_peak = g_live; return peak; }
}
