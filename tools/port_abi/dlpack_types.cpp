#include "tools/port_abi/dlpack_types.hpp"

#include <array>

namespace moeref {
namespace {

struct Entry {
  DType dtype;
  DLDataType type;
};
constexpr std::array<Entry, 7> kTypes{{{DType::float64, {kDLFloat, 64, 1}},
                                       {DType::float32, {kDLFloat, 32, 1}},
                                       {DType::bfloat16, {kDLBfloat, 16, 1}},
                                       {DType::float16, {kDLFloat, 16, 1}},
                                       {DType::int64, {kDLInt, 64, 1}},
                                       {DType::boolean, {kDLUInt, 8, 1}},
                                       {DType::uint8, {kDLUInt, 8, 1}}}};

}  // namespace

DLDataType to_dlpack(DType dtype) {
  for (const Entry& entry : kTypes)
    if (entry.dtype == dtype) return entry.type;
  return {kDLOpaqueHandle, 0, 1};
}

std::optional<DType> from_dlpack(DLDataType type) {
  for (const Entry& entry : kTypes)
    if (entry.type.code == type.code && entry.type.bits == type.bits && entry.type.lanes == type.lanes)
      return entry.dtype;
  return std::nullopt;
}

}  // namespace moeref
