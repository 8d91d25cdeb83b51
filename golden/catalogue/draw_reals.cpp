// Tensors of reals, row by row (data_choice.hpp). A row's elements have the indices (row coordinates, column)
// packed into 64 bits with a fixed stride, so that they do not depend on the extents.
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "golden/catalogue/data_kinds.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

constexpr int kAxisBits = 21;

/// What a kind needs to know to fill one row.
struct Row {
  const DataChoice& choice;
  CounterGenerator generator, second;  ///< a second stream for kinds that need two numbers an element
  std::uint64_t first;                 ///< index of the row's first element
  std::int64_t number;                 ///< of the row
  std::int64_t attempt;
  std::int64_t fan_in;
  std::span<double> out;

  double operator[](std::string_view parameter) const { return choice[parameter]; }
  double deviation() const { return choice["gain"] / std::sqrt(static_cast<double>(fan_in)); }
  std::uint64_t integer(std::uint64_t index, double count) const {
    return generator.integer(index, static_cast<std::uint64_t>(count));
  }
  void normals(double scale, double mean = 0.0) const {
    generator.normals(first, out);
    for (double& value : out) value = mean + scale * value;
  }
  /// value(element index, column).
  template <typename Value>
  void each(Value&& value) const {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = value(first + i, static_cast<double>(i));
  }
  /// One element in the middle of the row is enough to reach everything that depends on the row.
  void poison(double value) const {
    normals(choice["scale"]);
    if (static_cast<double>(number) == choice["row"]) out[out.size() / 2] = value;
  }
};

struct RealKind : DataKind {
  void (*fill)(const Row&);
};

void heavy_tailed(const Row& r) {
  r.normals(r["scale"]);
  for (std::size_t i = 0; i < r.out.size(); ++i) r.out[i] /= std::sqrt(r.second.uniform(r.first + i));
}

void probabilities(const Row& r) {
  const int power = static_cast<int>(r["power"]);
  double sum = 0.0;
  r.each([&](std::uint64_t i, double) {
    const double u = r.generator.uniform(i);
    double value = u;
    for (int p = 1; p < power; ++p) value *= u;
    sum += value;
    return value;
  });
  for (double& value : r.out) value /= sum;
}

const std::vector<RealKind>& real_table() {
  static const std::vector<RealKind> kinds{
      {{"normal", {{"scale", 1.0}, {"mean", 0.0}}}, [](const Row& r) { r.normals(r["scale"], r["mean"]); }},
      // Of deviation gain / sqrt(length of the inner products): sums of the size of their inputs.
      {{"fan_in", {{"gain", 1.0}}}, [](const Row& r) { r.normals(r.deviation()); }},
      // The same deviation, several times faster to draw.
      {{"fan_in_uniform", {{"gain", 1.0}}},
       [](const Row& r) {
         const double half = r.deviation() * std::sqrt(3.0);
         r.each([&](std::uint64_t i, double) { return half * (2.0 * r.generator.uniform(i) - 1.0); });
       }},
      {{"uniform", {{"low", -1.0}, {"high", 1.0}}},
       [](const Row& r) {
         const double low = r["low"], span = r["high"] - low;
         r.each([&](std::uint64_t i, double) { return low + span * r.generator.uniform(i); });
       }},
      {{"integer", {{"limit", 3.0, 0.0, 1e6}, {"mean", 0.0}}},
       [](const Row& r) {
         const double limit = std::floor(r["limit"]), first = r["mean"] - limit, count = 2.0 * limit + 1.0;
         r.each([&](std::uint64_t i, double) { return first + static_cast<double>(r.integer(i, count)); });
       }},
      {{"constant", {{"value", 1.0}}}, [](const Row& r) { std::ranges::fill(r.out, r["value"]); }},
      // Along the last axis.
      {{"ramp", {{"first", 0.0}, {"step", 1.0}}},
       [](const Row& r) {
         const double first = r["first"], step = r["step"];
         r.each([&](std::uint64_t, double column) { return first + step * column; });
       }},
      // One value, normal elsewhere.
      {{"spike", {{"value", 1.0}, {"at", 0.0, 0.0}, {"scale", 0.0}}},
       [](const Row& r) {
         r.normals(r["scale"]);
         if (r["at"] < static_cast<double>(r.out.size()))
           r.out[static_cast<std::size_t>(r["at"])] = r["value"];
       }},
      // Few different values, so that many are equal.
      {{"levels", {{"count", 3.0, 1.0, 1e6}, {"step", 1.0}, {"first", 0.0}}},
       [](const Row& r) {
         const double count = r["count"], first = r["first"], step = r["step"];
         r.each([&](std::uint64_t i, double) {
           return first + step * static_cast<double>(r.integer(i, count));
         });
       }},
      {{"powers_of_two", {{"lowest", -3.0, -40.0, 40.0}, {"count", 4.0, 1.0, 80.0}}},
       [](const Row& r) {
         const int lowest = static_cast<int>(r["lowest"]);
         const double count = r["count"];
         r.each([&](std::uint64_t i, double) {
           return std::ldexp(1.0, lowest + static_cast<int>(r.integer(i, count)));
         });
       }},
      // Student's t with two degrees of freedom, but for a factor.
      {{"heavy_tailed", {{"scale", 1.0}}}, heavy_tailed},
      // Every so manieth row larger by a factor.
      {{"loud_rows", {{"scale", 1.0}, {"factor", 64.0}, {"every", 3.0, 1.0}}},
       [](const Row& r) {
         const auto every = static_cast<std::int64_t>(r["every"]);
         r.normals(r["scale"] * (r.number % every == every - 1 ? r["factor"] : 1.0));
       }},
      // Positive rows that sum to 1, the more peaked the higher the power.
      {{"probabilities", {{"power", 1.0, 1.0, 8.0}}}, probabilities},
      // Row r has its value in column r mod width: an x of such rows picks columns of a matrix, and products
      // are exact.
      {{"one_hot", {{"value", 1.0}}},
       [](const Row& r) {
         std::ranges::fill(r.out, 0.0);
         r.out[static_cast<std::size_t>(r.number + r.attempt) % r.out.size()] = r["value"];
       }},
      {{"nan_row", {{"scale", 1.0}, {"row", 0.0, 0.0}}},
       [](const Row& r) { r.poison(std::numeric_limits<double>::quiet_NaN()); }},
      {{"infinite_row", {{"scale", 1.0}, {"row", 0.0, 0.0}}},
       [](const Row& r) { r.poison(std::numeric_limits<double>::infinity()); }},
  };
  return kinds;
}

/// Index of the first element of a row: its coordinates, 21 bits each below the first.
std::uint64_t first_index(const Shape& shape, std::int64_t row) {
  std::uint64_t packed = 0;
  int shift = 0;
  for (std::size_t axis = shape.size() - 1; axis-- > 0; shift += kAxisBits) {
    packed |= static_cast<std::uint64_t>(row % shape[axis]) << shift;
    row /= shape[axis];
  }
  return packed << kAxisBits;
}

template <typename T>
void store(Tensor& tensor, std::int64_t first, std::span<const double> values) {
  const std::span<T> out = tensor.as<T>().subspan(static_cast<std::size_t>(first), values.size());
  const bool bfloat16 = tensor.dtype() == DType::bfloat16;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if constexpr (std::is_same_v<T, std::uint16_t>)
      out[i] = bfloat16 ? to_bfloat16(values[i]) : to_float16(values[i]);
    else
      out[i] = static_cast<T>(values[i]);
  }
}

void draw_row(const DataChoice& choice, const DataStream& stream, std::int64_t fan_in, std::int64_t row,
              Tensor& out, std::vector<double>& values) {
  const std::string name =
      stream.attempt == 0 ? stream.tensor : stream.tensor + " redraw " + std::to_string(stream.attempt);
  const Shape& shape = out.shape();
  values.resize(static_cast<std::size_t>(shape.empty() ? 1 : shape.back()));
  const CounterGenerator generator(stream.seed, name), second(stream.seed, name + " second");
  require_kind(real_table(), choice.kind)
      .fill({choice, generator, second, shape.empty() ? 0 : first_index(shape, row), row, stream.attempt,
             fan_in, values});
  const std::int64_t first = row * static_cast<std::int64_t>(values.size());
  switch (size_of(out.dtype())) {
    case 8:
      return store<double>(out, first, values);
    case 4:
      return store<float>(out, first, values);
    default:
      return store<std::uint16_t>(out, first, values);
  }
}

}  // namespace

std::vector<DataKind> real_kinds() { return without_code(real_table()); }

Tensor draw_reals(const DataChoice& choice, const DataStream& stream, DType dtype, const Shape& shape,
                  std::int64_t fan_in) {
  Tensor out(dtype, shape);
  if (out.size() == 0) return out;
  const std::int64_t width = shape.empty() ? 1 : shape.back();
  const std::int64_t rows = out.size() / width;
  const std::int64_t block = std::max<std::int64_t>(1, 65536 / width);
  parallel_pieces(rows, block, [&](std::int64_t first, std::int64_t count) {
    std::vector<double> values;
    for (std::int64_t row = first; row < first + count; ++row)
      draw_row(choice, stream, fan_in, row, out, values);
  });
  return out;
}

void redraw_row(const DataChoice& choice, const DataStream& stream, std::int64_t fan_in, std::int64_t row,
                Tensor& out) {
  std::vector<double> values;
  draw_row(choice, stream, fan_in, row, out, values);
}

}  // namespace moeref
