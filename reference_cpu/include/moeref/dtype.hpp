// Element types, their rounding, and the unit roundoff that every error bound is built from.
#pragma once

#include <cstdint>
#include <string_view>

namespace moeref {

/// The element types of named tensors. The four floating ones are the parameter types of MoEConfig.dtype;
/// uint8 holds codes of quantised weights.
enum class DType : std::uint8_t { float64, float32, bfloat16, float16, int64, boolean, uint8 };

/// "float64", "float32", "bfloat16", "float16", "int64", "bool", "uint8".
std::string_view name(DType dtype);

/// Inverse of name(); also takes "torch.bfloat16" and the like. Throws InputError naming the text.
DType parse_dtype(std::string_view text);

/// Bytes of one element in memory.
std::int64_t size_of(DType dtype);

bool is_floating(DType dtype);

/// Unit roundoff of round-to-nearest, u = 2^-p with p the significand bits: 2^-53, 2^-24, 2^-8, 2^-11 (Higham
/// 2002, 2.1). 0 for the integer types.
double unit_roundoff(DType dtype);

/// Largest absolute error that underflow can add: the smallest normal number, which covers flushing
/// subnormals to zero; for float16, whose subnormals are never flushed, their spacing.
double underflow(DType dtype);

/// Largest finite number: beyond it a result becomes infinite.
double largest(DType dtype);

/// The value that `dtype` holds when `value` is stored in it, round to nearest even, overflow to infinity.
double round_to(DType dtype, double value);

/// The wider of two floating types, as PyTorch promotes: bfloat16 with float16 gives float32.
DType promote(DType a, DType b);

/// Bit patterns of the 16-bit formats, for storage.
std::uint16_t to_bfloat16(double value);
double from_bfloat16(std::uint16_t bits);
std::uint16_t to_float16(double value);
double from_float16(std::uint16_t bits);

}  // namespace moeref
