#include "tools/port_abi/call_block.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/arithmetic/parallel_memory.hpp"

namespace moeref {
namespace {

constexpr std::size_t kAlignment = 256;  // what DLPack promises

/// The pattern at a place of the block; it repeats every 256 bytes and holds every value of a byte.
constexpr std::byte pattern(std::size_t at) { return static_cast<std::byte>((at * 167 + 91) & 0xff); }

/// Long enough for the largest gap between two buffers.
const std::vector<std::byte>& pattern_bytes() {
  static const std::vector<std::byte> bytes = [] {
    std::vector<std::byte> out(CallBlock::kGuard + 3 * kAlignment);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = pattern(i);
    return out;
  }();
  return bytes;
}

/// One element's poison, as bytes. The floating numbers are about -1234.9.
std::array<std::byte, 8> poison_of(DType dtype, Poison poison) {
  const bool nan = poison == Poison::nan;
  std::uint64_t bits = 0;
  switch (dtype) {
    case DType::float64:
      bits = nan ? 0x7ff8c0ffee5eed01 : 0xc0934b6db6a1c3e5;
      break;
    case DType::float32:
      bits = nan ? 0x7fc5eed1 : 0xc49a5b6d;
      break;
    case DType::bfloat16:
      bits = nan ? 0x7fd5 : 0xc49b;
      break;
    case DType::float16:
      bits = nan ? 0x7ed5 : 0xe4d3;
      break;
    case DType::int64:
      bits = nan ? 0xfffff1e1d2c3b4a5 : 0xffffe5d4c3b2a190;
      break;
    case DType::boolean:
    case DType::uint8:
      bits = nan ? 0xd5 : 0x6b;
      break;
  }
  std::array<std::byte, 8> out{};
  std::memcpy(out.data(), &bits, sizeof bits);
  return out;
}

/// Elements that a thread works on at a time.
constexpr std::int64_t kPiece = std::int64_t{1} << 20;

void fill_with_poison(std::byte* data, const BlockTensor& tensor, Poison poison) {
  const auto element = poison_of(tensor.dtype, poison);
  const auto width = static_cast<std::size_t>(size_of(tensor.dtype));
  parallel_pieces(element_count(tensor.shape), kPiece, [&](std::int64_t first, std::int64_t count) {
    std::byte* to = data + static_cast<std::size_t>(first) * width;
    for (std::int64_t i = 0; i < count; ++i, to += width) std::memcpy(to, element.data(), width);
  });
}

/// Calls found(index) for every element of [first, first + count) that holds the one poison in `once` and the
/// other one in `again`.
template <class T, class Found>
void for_each_poisoned(const Tensor& once, const Tensor& again, std::int64_t first, std::int64_t count,
                       const Found& found) {
  T nan{}, number{};
  std::memcpy(&nan, poison_of(once.dtype(), Poison::nan).data(), sizeof nan);
  std::memcpy(&number, poison_of(once.dtype(), Poison::number).data(), sizeof number);
  const auto element = [](const Tensor& tensor, std::int64_t i) {
    T out{};
    std::memcpy(&out, tensor.bytes().data() + static_cast<std::size_t>(i) * sizeof out, sizeof out);
    return out;
  };
  for (std::int64_t i = first; i < first + count; ++i)
    if (element(once, i) == nan && element(again, i) == number) found(i);
}

std::size_t align(std::size_t at) { return (at + kAlignment - 1) / kAlignment * kAlignment; }

BlockTensor tensor_of(std::string name, DType dtype, Shape shape, bool output, bool optional) {
  BlockTensor out{std::move(name), dtype, std::move(shape), 0, 0, output, optional};
  out.bytes = static_cast<std::size_t>(element_count(out.shape) * size_of(dtype));
  return out;
}

/// First and last byte in [from, to) that is not the pattern; between them, what was written may equal it
/// here and there.
struct Damage {
  std::size_t first, last;
  std::size_t span() const { return last - first + 1; }
};
std::optional<Damage> damage(const std::byte* memory, std::size_t from, std::size_t to) {
  if (std::memcmp(memory + from, pattern_bytes().data() + from % kAlignment, to - from) == 0)
    return std::nullopt;
  Damage out{to, from};
  for (std::size_t at = from; at < to; ++at) {
    if (memory[at] == pattern(at)) continue;
    out.first = std::min(out.first, at);
    out.last = at;
  }
  return out;
}

}  // namespace

CallBlock::CallBlock(const Call& call, std::span<const TensorSpec> outputs) {
  for (const auto& [name, tensor] : call.tensors)
    tensors_.push_back(tensor_of(name, tensor.dtype(), tensor.shape(), false, false));
  for (const TensorSpec& spec : outputs)
    tensors_.push_back(tensor_of(spec.name, spec.dtype, spec.shape, true, !spec.required));
  std::size_t end = 0;
  for (BlockTensor& tensor : tensors_) {
    tensor.offset = align(end + kGuard);
    end = tensor.offset + tensor.bytes;
  }
  size_ = align(end + kGuard);
}

void CallBlock::fill(std::byte* memory, const Call& call, Poison poison) const {
  std::size_t end = 0;
  const auto guard = [&](std::size_t to) {
    std::memcpy(memory + end, pattern_bytes().data() + end % kAlignment, to - end);
  };
  for (const BlockTensor& tensor : tensors_) {
    guard(tensor.offset);
    std::byte* data = memory + tensor.offset;
    if (!tensor.output) {
      copy_in_parallel(call.tensors.find(tensor.name)->second.bytes(), data);
    } else {
      fill_with_poison(data, tensor, poison);
    }
    end = tensor.offset + tensor.bytes;
  }
  guard(size_);
}

std::optional<std::string> CallBlock::overwritten(const std::byte* memory) const {
  std::size_t end = 0;
  for (std::size_t i = 0; i <= tensors_.size(); ++i) {
    const std::size_t next = i < tensors_.size() ? tensors_[i].offset : size_;
    if (const auto found = damage(memory, end, next)) {
      // Between two buffers it is the nearer one that was left.
      const bool behind = i > 0 && (i == tensors_.size() || found->first - end <= next - 1 - found->last);
      const BlockTensor& tensor = tensors_[behind ? i - 1 : i];
      if (behind)
        return fmt::format("{} bytes behind the end of {}, from {} bytes after it on", found->span(),
                           tensor.name, found->first - end);
      return fmt::format("{} bytes before the start of {}, up to {} bytes before it", found->span(),
                         tensor.name, next - 1 - found->last);
    }
    if (i < tensors_.size()) end = tensors_[i].offset + tensors_[i].bytes;
  }
  return std::nullopt;
}

std::optional<std::string> CallBlock::changed_input(const std::byte* memory, const Call& call) const {
  for (const BlockTensor& tensor : tensors_) {
    if (tensor.output || tensor.bytes == 0) continue;
    const auto before = call.tensors.find(tensor.name)->second.bytes();
    const auto at = first_difference(before, memory + tensor.offset);
    if (!at) continue;
    return tensor.name + coordinates(static_cast<std::int64_t>(*at) / size_of(tensor.dtype), tensor.shape);
  }
  return std::nullopt;
}

NamedTensors CallBlock::results(const std::byte* memory) const {
  NamedTensors out;
  for (const BlockTensor& tensor : tensors_) {
    if (!tensor.output) continue;
    Tensor values(tensor.dtype, tensor.shape);
    copy_in_parallel({memory + tensor.offset, tensor.bytes}, values.bytes().data());
    out.emplace(tensor.name, std::move(values));
  }
  return out;
}

Unwritten unwritten(const Tensor& once, const Tensor& again) {
  std::atomic<std::int64_t> all{0}, earliest{once.size()};
  parallel_pieces(once.size(), kPiece, [&](std::int64_t first, std::int64_t size) {
    Unwritten here;
    const auto found = [&](std::int64_t index) {
      if (here.count++ == 0) here.first = index;
    };
    switch (size_of(once.dtype())) {
      case 1:
        for_each_poisoned<std::uint8_t>(once, again, first, size, found);
        break;
      case 2:
        for_each_poisoned<std::uint16_t>(once, again, first, size, found);
        break;
      case 4:
        for_each_poisoned<std::uint32_t>(once, again, first, size, found);
        break;
      default:
        for_each_poisoned<std::uint64_t>(once, again, first, size, found);
    }
    if (here.count == 0) return;
    all += here.count;
    std::int64_t now = earliest;
    while (here.first < now && !earliest.compare_exchange_weak(now, here.first)) continue;
  });
  return all == 0 ? Unwritten{} : Unwritten{all, earliest};
}

}  // namespace moeref
