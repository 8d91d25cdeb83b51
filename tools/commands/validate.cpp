// moeref validate: judges golden files and the results of a port, and reports.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "golden/catalogue/drawn_case.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/commands/commands.hpp"
#include "tools/judging/case_check.hpp"
#include "tools/judging/declarations.hpp"
#include "tools/judging/must_pass.hpp"
#include "tools/judging/waivers.hpp"
#include "tools/report/environment.hpp"
#include "tools/report/html.hpp"
#include "tools/report/json.hpp"
#include "tools/report/junit.hpp"
#include "tools/report/report_file.hpp"
#include "tools/report/table.hpp"
#include "tools/terminal/progress.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

/// Files up to this size are judged one per core; larger ones one after the other, each on all cores.
constexpr std::uint64_t kLargeFile = 8u << 20;

struct ValidateOptions {
  std::string port;
  std::vector<fs::path> paths;
  std::vector<std::string> components;
  fs::path json, junit, html, waivers;
  std::string must_pass, date;
  bool quiet = false, forward_only = false;
  double timeout = 60.0;  ///< seconds
  std::int64_t processes = PortSettings{}.processes;
  bool share_devices = PortSettings{}.share_devices;
};

/// Failing cases whose values the HTML report shows.
constexpr int kEvidenceCases = 100;

/// What can be known of a file without reading its data, so that bad input is told before any work.
Component check_header(const fs::path& file) {
  if (is_drawn_case(file)) return read_drawn_case(file).spec.component;
  const GoldenHeader header = read_golden_header(file);
  try {
    if (header.component == Component::mlp)
      parse_mlp_config(header.config);
    else
      parse_moe_config(header.config);
    parse_call_options(header.options);
  } catch (const InputError& error) {
    throw InputError(file.string() + ": " + error.what());
  }
  return header.component;
}

/// The files of those components; of all where none is named.
std::vector<fs::path> chosen(const std::vector<fs::path>& files, const std::vector<std::string>& components) {
  std::vector<Component> wanted;
  for (const std::string& component : components) wanted.push_back(parse_component(component));
  std::vector<fs::path> out;
  for (const fs::path& file : files) {
    const Component component = check_header(file);
    if (wanted.empty() || std::ranges::find(wanted, component) != wanted.end()) out.push_back(file);
  }
  if (out.empty())
    throw InputError(fmt::format("none of the {} files is a case of the components asked for", files.size()));
  return out;
}

std::vector<CaseReport> check_all(CaseChecker& checker, const std::vector<fs::path>& files) {
  std::vector<CaseReport> reports(files.size());
  std::vector<std::map<std::string, IdentityCount>> identity(files.size());
  std::vector<std::size_t> small, large;
  for (std::size_t i = 0; i < files.size(); ++i)
    (fs::file_size(files[i]) > kLargeFile || is_drawn_case(files[i]) ? large : small).push_back(i);
  Progress progress("validate", files.size());
  const auto check = [&](std::size_t i) {
    progress.start(files[i].stem().string());
    auto checked = checker.check(files[i]);
    reports[i] = std::move(checked.report);
    identity[i] = std::move(checked.identity);
    progress.finish();
  };
  parallel_for(static_cast<std::int64_t>(small.size()),
               [&](std::int64_t i) { check(small[static_cast<std::size_t>(i)]); });
  for (const std::size_t i : large) check(i);
  IdentityEvidence evidence;
  for (std::size_t i = 0; i < files.size(); ++i) evidence.add(i, reports[i].component, identity[i]);
  evidence.judge(reports, checker.port.capabilities() != nullptr);
  return reports;
}

/// "5 failing cases pass as discarded_groups = minus_infinity", a line for each rule, the most frequent
/// first.
std::string rules_followed(const Report& report) {
  std::map<std::string, int> count;
  for (const CaseReport& c : report.cases)
    if (!c.follows.empty()) ++count[c.follows];
  std::vector<std::pair<std::string, int>> rules(count.begin(), count.end());
  std::ranges::stable_sort(rules, std::greater<>(), &std::pair<std::string, int>::second);
  std::string out;
  for (const auto& [rule, cases] : rules)
    out += fmt::format("{} failing case{} as {}\n", cases, cases == 1 ? " passes" : "s pass", rule);
  return out;
}

/// `--component gate moe FOLDER` gives the second one as a file, which is told before any work.
void refuse_components_as_files(const std::vector<fs::path>& paths) {
  for (const fs::path& path : paths) {
    const auto named = [&](const ComponentFacts& row) { return row.name == path.string(); };
    if (std::ranges::any_of(kComponentFacts, named) && !fs::exists(path))
      throw InputError(
          fmt::format("{0}: no such file or folder; as a component it is --component {0}, and "
                      "several are --component gate,moe",
                      path.string()));
  }
}

int validate(const ValidateOptions& options) {
  const auto began = std::chrono::steady_clock::now();
  refuse_components_as_files(options.paths);
  const std::unique_ptr<Port> port =
      open_port(options.port, port_settings(options.timeout, options.processes, options.share_devices));
  const std::vector<fs::path> files = chosen(list_golden_files(options.paths), options.components);
  port->prepare(files);
  const Waivers waivers(options.waivers);
  const auto must_pass = options.must_pass.empty() ? MustPassList{} : read_must_pass(options.must_pass);
  ReportFile json(options.json), junit(options.junit), html(options.html);

  CaseChecker checker{*port, {}};
  checker.forward_only = options.forward_only;
  if (html.wanted()) checker.evidence_left = kEvidenceCases;
  Report report;
  report.moeref = MOEREF_VERSION;
  report.port = port->name();
  report.compared = port->is_reference()
                        ? "the results recorded in the files, judged against the reference"
                        : "recorded results and the port's, each judged against the reference";
  if (const auto products = declared_by(*port).float32_products; products != Float32Products::float32)
    report.compared += fmt::format("; float32 products are {}, as it declares", name(products));
  report.cases = check_all(checker, files);
  apply_must_pass(must_pass, report);
  waivers.apply(report, today_utc());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();

  if (json.wanted()) json.write(json_text(report));
  if (junit.wanted()) junit.write(junit_text(report));
  if (html.wanted()) {
    report.environment = environment();
    if (!options.date.empty()) report.environment.emplace_back("date", options.date);
    html.write(html_text(report));
  }
  fmt::print("{}", table_text(report, {shows_colours(stdout), options.quiet}));
  fmt::print("{}", rules_followed(report));
  return report.exit_code();
}

std::string port_help() {
  std::string help = "Whose results to judge:";
  for (const PortKind& kind : port_kinds()) help += fmt::format("\n  {}: {}", kind.syntax, kind.summary);
  return help;
}

}  // namespace

Command validate_command(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("validate", "Judge golden files, and a port's results on them");
  const auto options = std::make_shared<ValidateOptions>();
  app->add_option("--port", options->port, port_help())->required()->type_name("PORT");
  app->add_option("FILE_OR_DIR", options->paths,
                  "Golden files and drawn cases, or folders that are searched for *.h5 and *.drawn.json")
      ->required()
      ->type_name("");
  app->add_option("--json", options->json, "Write the whole report to this file, for programs")
      ->type_name("FILE");
  app->add_option("--junit", options->junit, "Write a JUnit report to this file, for CI systems")
      ->type_name("FILE");
  add_components(*app, options->components, "Only the cases of this component")->allow_extra_args(false);
  app->add_option("--timeout", options->timeout, "Seconds that a port may take for one call (60)")
      ->type_name("SECONDS");
  app->add_option("--processes", options->processes,
                  "Calls with more ranks are made in one process, which plays them all (16)")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_flag(
      "--share-devices", options->share_devices,
      "Processes of a call may work on one CUDA device, where there are fewer (with NCCL they cannot)");
  app->add_option("--html", options->html, "Write the report as one HTML page to this file")
      ->type_name("FILE");
  app->add_option("--date", options->date, "A date for the HTML page, which shows none without it")
      ->type_name("TEXT");
  app->add_option("--waivers", options->waivers,
                  "Known failures that an issue tracks, as JSON: FAIL becomes WAIVED")
      ->type_name("FILE");
  app->add_option("--must-pass", options->must_pass,
                  "Cases that must be judged and PASS: core, training, expert_parallelism, or a file with a "
                  "name a line")
      ->type_name("LIST");
  app->add_flag(
      "--forward-only", options->forward_only,
      "Judge forward passes alone, also of files with gradients (ports without a backward pass: always)");
  app->add_flag("--quiet", options->quiet, "Show the failures and the last line alone");
  return {app, [options] { return validate(*options); }};
}

}  // namespace moeref
