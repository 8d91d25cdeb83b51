#include "tools/judging/suite_options.hpp"

#include <string>

#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/judging/declarations.hpp"

namespace moeref {

ScaleDefaults defaults_of(Scale scale) {
  if (scale == Scale::small) return {100, 10.0, RunOptions{}.shrink_seconds};
  return {scale == Scale::kernel ? 2 : 1, 600.0, 120.0};
}

RunOptions run_options(const Port& port, Scale scale) {
  const ScaleDefaults defaults = defaults_of(scale);
  RunOptions out;
  out.cases = defaults.cases;
  out.shrink_seconds = defaults.shrink_seconds;
  out.declared = declared_by(port);
  out.sizes = size_range(scale, port.is_reference());
  if (const Capabilities* has = port.capabilities()) {
    out.sizes.dtypes = has->dtypes;
    out.sizes.conventions = has->conventions;
  }
  set_thread_count(scale == Scale::small ? 1 : 0);
  return out;
}

const Property& property_named(std::string_view id_or_name) {
  const Property* property = find_property(id_or_name);
  if (!property)
    throw InputError("there is no property '" + std::string(id_or_name) + "' (moeref list properties)");
  return *property;
}

}  // namespace moeref
