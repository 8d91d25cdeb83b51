#include "python/extension/calls.hpp"

#include <nanobind/stl/string.h>

#include <string>
#include <utility>

#include "golden/catalogue/recipes.hpp"
#include "moeref/descriptor.hpp"
#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"
#include "moeref/signature.hpp"
#include "moeref/verdict.hpp"
#include "python/extension/arrays.hpp"
#include "reference_cpu/quantization/quantized_call.hpp"

namespace nb = nanobind;

namespace moeref::python {
namespace {

Call make(const std::string& component, const std::string& config, const std::string& options,
          const nb::dict& arrays, bool backward) {
  Call call;
  call.component = parse_component(component);
  call.config = nlohmann::json::parse(config);
  call.options = nlohmann::json::parse(options);
  call.tensors = lent_tensors(arrays);
  call.backward = backward;
  check_inputs(call);
  return call;
}

nb::dict verdict_of(const TensorVerdict& tensor) {
  nb::dict out;
  out["tensor"] = tensor.tensor;
  out["verdict"] = std::string(name(tensor.verdict));
  out["ratio"] = tensor.ratio;
  out["index"] = tensor.index;
  out["value"] = tensor.value;
  out["reference"] = tensor.reference;
  out["bound"] = tensor.bound;
  out["elements"] = tensor.elements;
  out["finding"] = tensor.finding;
  return out;
}

nb::dict verdict_of(const CaseVerdict& verdict) {
  nb::dict out;
  nb::list tensors;
  for (const TensorVerdict& tensor : verdict.tensors) tensors.append(verdict_of(tensor));
  const TensorVerdict* first = verdict.first_failure();
  out["verdict"] = std::string(name(verdict.verdict));
  out["tensors"] = tensors;
  out["first_failure"] = first ? nb::object(nb::str(first->tensor.c_str())) : nb::none();
  out["tokens"] = verdict.tokens;
  out["uncertified_tokens"] = verdict.uncertified_tokens;
  out["ambiguous_tokens"] = verdict.ambiguous_tokens;
  return out;
}

nb::tuple drawn(const Descriptor& descriptor, bool backward) {
  Call call = make_call(descriptor, backward && facts(descriptor.component).has_backward);
  return nb::make_tuple(std::move(call), to_line(descriptor));
}

/// The row of a table of formats or accumulators.
template <typename Table>
const auto& row_of(const Table& table, const std::string& format, const char* what) {
  for (const auto& row : table)
    if (row.name == format) return row;
  throw InputError("'" + format + "' is no " + what + " (moeref list fields)");
}

}  // namespace

void bind_calls(nb::module_& module) {
  nb::class_<Call>(module, "Call")
      .def("__init__",
           [](Call* self, const std::string& component, const std::string& config, const std::string& options,
              const nb::dict& arrays,
              bool backward) { new (self) Call(make(component, config, options, arrays, backward)); })
      .def_prop_ro("component", [](const Call& call) { return std::string(name(call.component)); })
      .def_prop_ro("config", [](const Call& call) { return call.config.dump(); })
      .def_prop_ro("options", [](const Call& call) { return call.options.dump(); })
      .def_prop_ro("backward", [](const Call& call) { return call.backward; })
      .def("arrays", [](const Call& call) { return arrays_of(call.tensors); })
      .def("quantised",
           [](const Call& call, const std::string& weights, const std::string& activations,
              const std::string& accumulator) {
             const WeightFormatFacts& row = row_of(kWeightFormats, weights, "format of quantised weights");
             if (row.kind == WeightFormat::none) throw InputError("want quantised weights, not none");
             return quantized_call(
                 call, row.kind,
                 row_of(kActivationFormats, activations, "format of quantised activations").kind,
                 row_of(kAccumulators, accumulator, "accumulator").kind);
           })
      .def("dequantised", [](const Call& call) { return dequantized_call(call); });
  module.def("draw",
             [](const std::string& component, const std::string& scale, std::uint64_t bits, bool backward) {
               const SizeRange range = size_range(parse_scale(scale), true);
               Descriptor descriptor = draw_descriptor(parse_component(component), bits, range);
               lower_to(descriptor, range);
               return drawn(descriptor, backward);
             });
  module.def("call_of_line", [](const std::string& line, bool backward) {
    Descriptor descriptor = parse_descriptor(line);
    repair(descriptor);
    return drawn(descriptor, backward);
  });
  module.def("read_golden", [](const std::string& path) {
    GoldenFile golden = read_golden(path, BoundValues::only_checked);
    return nb::make_tuple(std::move(golden.call), golden.case_name, note_of_recipe(golden.recipe));
  });
  module.def("evaluate", [](const Call& call) {
    Evaluation evaluation;
    {
      const nb::gil_scoped_release others_run;
      evaluation = evaluate(call);
    }
    return arrays_of(std::move(evaluation));
  });
  module.def("judge", [](const Call& call, const nb::dict& results, bool lowest_id_first) {
    const NamedTensors candidate = lent_tensors(results);
    JudgeOptions options;
    options.lowest_id_first = lowest_id_first;
    CaseVerdict verdict;
    {
      const nb::gil_scoped_release others_run;
      verdict = judge(call, candidate, options);
    }
    return verdict_of(verdict);
  });
}

}  // namespace moeref::python
