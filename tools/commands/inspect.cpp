// moeref inspect: what a golden file holds.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "golden/catalogue/recipes.hpp"
#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"
#include "tools/commands/commands.hpp"
#include "tools/report/report.hpp"
#include "tools/terminal/columns.hpp"

namespace moeref {
namespace {

struct InspectOptions {
  std::filesystem::path file;
  std::string dataset;
  std::int64_t limit = 256;
};

/// Of the finite elements; NaN and infinities are counted apart.
struct Statistics {
  double least = INFINITY, most = -INFINITY, sum = 0.0;
  std::int64_t finite = 0, nan = 0, infinite = 0;
};

Statistics statistics_of(const Tensor& tensor) {
  Statistics s;
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const double value = tensor[i];
    if (!std::isfinite(value)) {
      ++(std::isnan(value) ? s.nan : s.infinite);
      continue;
    }
    s.least = std::min(s.least, value);
    s.most = std::max(s.most, value);
    s.sum += value;
    ++s.finite;
  }
  return s;
}

/// "bounds/outputs/y" is kept as the bound of "outputs/y".
const Tensor* tensor_at(const GoldenFile& golden, std::string_view path) {
  constexpr std::string_view kBounds = "bounds/";
  if (path.starts_with(kBounds)) return find(golden.bounds, path.substr(kBounds.size()));
  const Tensor* tensor = find(golden.call.tensors, path);
  return tensor ? tensor : find(golden.results, path);
}

void print_flags(const std::vector<std::string>& flags) {
  if (flags.empty()) return;
  fmt::print("\nbugs that this case catches\n");
  std::vector<Row> rows;
  for (const std::string& flag : flags) {
    const BugNote* note = find_bug(flag);
    rows.push_back({{"  " + flag},
                    {note ? note->type : ""},
                    {note ? note->wrong : "no note on this one"},
                    {note ? note->project : "", Colour::faint}});
  }
  fmt::print("{}", columns(rows, shows_colours(stdout)));
}

void print_datasets(const GoldenHeader& header, const GoldenFile& golden) {
  const auto head = [](const char* text, bool right) { return Cell{text, Colour::bold, right}; };
  std::vector<Row> rows{{head("dataset", false), head("dtype", false), head("stored", false),
                         head("shape", false), head("min", true), head("max", true), head("mean", true),
                         head("NaN", true), head("inf", true)}};
  const auto value = [](double v, std::int64_t of) {
    return Cell{of == 0 ? "." : fmt::format("{:.6g}", v), Colour::plain, true};
  };
  const auto bad = [](std::int64_t count) {
    return count == 0 ? Cell{".", Colour::faint, true} : Cell{std::to_string(count), Colour::red, true};
  };
  for (const DatasetInfo& info : header.datasets) {
    const Tensor* tensor = tensor_at(golden, info.path);
    if (!tensor) continue;
    const Statistics s = statistics_of(*tensor);
    const double mean = s.sum / static_cast<double>(std::max<std::int64_t>(s.finite, 1));
    rows.push_back({{info.path},
                    {std::string(name(info.documented.value_or(info.stored)))},
                    {std::string(name(info.stored))},
                    {to_string(info.shape)},
                    value(s.least, s.finite),
                    value(s.most, s.finite),
                    value(mean, s.finite),
                    bad(s.nan),
                    bad(s.infinite)});
  }
  fmt::print("\n{}", columns(rows, shows_colours(stdout)));
}

void print_values(const GoldenFile& golden, const InspectOptions& options) {
  const Tensor* tensor = tensor_at(golden, options.dataset);
  if (!tensor)
    throw InputError(options.file.string() + ": has no dataset '" + options.dataset +
                     "'; moeref inspect lists them");
  const Tensor* bound = find(golden.bounds, options.dataset);
  const std::int64_t count = options.limit == 0 ? tensor->size() : std::min(tensor->size(), options.limit);
  fmt::print("{} {} {}\n", options.dataset, name(tensor->dtype()), to_string(tensor->shape()));
  for (std::int64_t i = 0; i < count; ++i)
    fmt::print("{} {:.17g}{}\n", coordinates(i, tensor->shape()), (*tensor)[i],
               bound ? fmt::format(" bound {:.3g}", (*bound)[i]) : "");
  if (count < tensor->size()) fmt::print("and {} more: --limit 0 shows them all\n", tensor->size() - count);
}

int inspect(const InspectOptions& options) {
  if (options.limit < 0) throw InputError(fmt::format("--limit is {}: want 0 (all) or more", options.limit));
  const GoldenHeader header = read_golden_header(options.file);
  const GoldenFile golden = read_golden(options.file);
  if (!options.dataset.empty()) {
    print_values(golden, options);
    return kExitPassed;
  }
  fmt::print("case       {}__{}\nproducer   {}\nconfig     {}\ncall       {}\npasses     {}\n",
             name(header.component), header.case_name, one_line(header.producer), header.config.dump(),
             header.options.dump(), golden.call.backward ? "forward and backward" : "forward");
  if (!header.recipe.empty()) fmt::print("recipe     {}\n", one_line(header.recipe));
  if (header.allow_nonfinite) fmt::print("NaN and infinities may stand in its inputs\n");
  print_flags(header.flags);
  print_datasets(header, golden);
  return kExitPassed;
}

}  // namespace

Command inspect_command(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("inspect", "Show what a golden file holds");
  const auto o = std::make_shared<InspectOptions>();
  app->add_option("FILE", o->file, "A golden file")->required()->type_name("");
  app->add_option("--dataset", o->dataset,
                  "The values of this dataset, with their bounds where the file has them")
      ->type_name("NAME");
  app->add_option("--limit", o->limit, "How many values at most, 0 = all (256)")->type_name("N");
  return {app, [o] { return inspect(*o); }};
}

}  // namespace moeref
