// moeref mutants: wrong implementations on purpose, and whether golden files and properties catch them.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"
#include "property_tests/mutants/golden_trial.hpp"
#include "property_tests/mutants/property_trial.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/commands/commands.hpp"
#include "tools/report/mutant_report.hpp"
#include "tools/report/report_file.hpp"
#include "tools/terminal/progress.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

struct MutantsOptions {
  std::vector<std::string> names, components;
  std::vector<fs::path> golden;
  std::string dtype;
  PropertyTrialOptions properties;
  fs::path json, html, markdown;
};

/// Where a checkout has them, which is what the command is run in.
constexpr const char* kCommittedCases = "golden/cases";

std::vector<fs::path> golden_files(const MutantsOptions& options) {
  if (!options.golden.empty()) return list_golden_files(options.golden);
  if (!fs::is_directory(kCommittedCases))
    throw InputError(
        fmt::format("there is no folder {} here: name golden files with --golden", kCommittedCases));
  return list_golden_files(std::vector<fs::path>{kCommittedCases});
}

/// A trial for each mutant that was asked for, in the order of the tables.
std::vector<Trial> wanted_trials(const MutantsOptions& options) {
  std::vector<Component> components;
  for (const std::string& text : options.components) components.push_back(parse_component(text));
  for (const std::string& wanted : options.names)
    if (!find_mutant(wanted)) throw InputError("there is no mutant '" + wanted + "' (moeref list mutants)");
  std::vector<Trial> out;
  for (const Mutant& mutant : all_mutants()) {
    const bool named =
        options.names.empty() || std::ranges::find(options.names, mutant.name) != options.names.end();
    const bool concerned =
        components.empty() || std::ranges::find_first_of(components, mutant.components) != components.end();
    if (!named || !concerned) continue;
    Trial& trial = out.emplace_back();
    trial.mutant = &mutant;
  }
  if (out.empty()) throw InputError("none of these mutants is one of these components (moeref list mutants)");
  return out;
}

void run_trials(std::span<Trial> trials, std::span<const fs::path> files, const PropertyTrialOptions& options,
                MutantReport& report) {
  {
    Progress progress("golden files", files.size());
    GoldenTrialOptions golden;
    golden.only = options.only;
    golden.file_done = [&] { progress.finish(); };
    const GoldenFilesSeen seen = try_golden_files(trials, files, golden);
    report.files = seen.files;
    report.flags = seen.flags;
  }
  Progress progress("properties", trials.size());
  parallel_for(static_cast<std::int64_t>(trials.size()), [&](std::int64_t i) {
    Trial& trial = trials[static_cast<std::size_t>(i)];
    progress.start(trial.mutant->name);
    try_properties(trial, options);
    progress.finish();
  });
}

int mutants(MutantsOptions options) {
  const auto began = std::chrono::steady_clock::now();
  if (!options.dtype.empty()) {
    options.properties.only = parse_dtype(options.dtype);
    if (options.properties.only != DType::bfloat16)
      throw InputError("--dtype is '" + options.dtype + "': want bfloat16");
  }
  const std::vector<fs::path> files = golden_files(options);
  ReportFile json(options.json), html(options.html), markdown(options.markdown);
  MutantReport report;
  report.moeref = MOEREF_VERSION;
  report.dtype = options.dtype;
  report.cases = options.properties.cases;
  report.seed = options.properties.seed;
  report.whole = options.names.empty() && options.components.empty();
  report.trials = wanted_trials(options);
  // Those that are run, side by side; then back to where they stand in the tables.
  std::vector<Trial> run;
  for (const Trial& trial : report.trials)
    if (report.status(trial) == MutantStatus::survived || report.status(trial) == MutantStatus::equivalent)
      run.push_back(trial);
  run_trials(run, files, options.properties, report);
  for (Trial& done : run) *std::ranges::find(report.trials, done.mutant, &Trial::mutant) = std::move(done);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();

  if (json.wanted()) json.write(mutants_json(report));
  if (html.wanted()) html.write(mutants_html(report));
  if (markdown.wanted()) markdown.write(mutants_markdown(report));
  fmt::print("{}", mutants_text(report, shows_colours(stdout)));
  return report.exit_code();
}

}  // namespace

Command mutants_command(CLI::App& parent) {
  CLI::App* app =
      parent.add_subcommand("mutants", "Run wrong implementations on golden files and properties");
  const auto options = std::make_shared<MutantsOptions>();
  app->add_option("NAME", options->names, "Only these mutants (moeref list mutants)")->type_name("");
  add_components(*app, options->components, "Only mutants of these components");
  app->add_option("--golden", options->golden,
                  "Golden files, or folders that are searched for *.h5 (golden/cases)")
      ->type_name("FILE_OR_DIR");
  app->add_option("--cases", options->properties.cases, "Cases of each property until one fails")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--seed", options->properties.seed, "What cases are drawn from")
      ->capture_default_str()
      ->type_name("S");
  app->add_option("--dtype", options->dtype, "Mutants are ports of bfloat16 alone")->type_name("bfloat16");
  app->add_flag("--all-properties", options->properties.all,
                "Every property of a mutant's components; without it those that the mutant's row names, and "
                "others where nothing else kills it");
  app->add_option("--json", options->json, "Write the report to this file, for programs")->type_name("FILE");
  app->add_option("--html", options->html, "Write the report as one HTML page to this file")
      ->type_name("FILE");
  app->add_option("--markdown", options->markdown, "Write the score to this file, as README.md has it")
      ->type_name("FILE");
  return {app, [options] { return mutants(*options); }};
}

}  // namespace moeref
