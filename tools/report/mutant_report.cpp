#include "tools/report/mutant_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/terminal/columns.hpp"
#include "tools/terminal/exit_code.hpp"

namespace moeref {
namespace {

constexpr std::array<std::string_view, 5> kMutantStatuses{"KILLED", "SURVIVED", "EQUIVALENT", "NOT_SHOWN",
                                                          "NOT_EXPRESSIBLE"};

Colour colour_of(MutantStatus status) {
  switch (status) {
    case MutantStatus::killed:
      return Colour::green;
    case MutantStatus::survived:
      return Colour::red;
    case MutantStatus::equivalent:
    case MutantStatus::not_shown:
    case MutantStatus::not_expressible:
      return Colour::faint;
  }
  return Colour::plain;
}

std::string component_names(const Mutant& mutant) {
  std::string out;
  for (const Component c : mutant.components) out += (out.empty() ? "" : " ") + std::string(name(c));
  return out;
}

/// Shares are rounded down, so that 100 % means all.
int percent(double share) { return static_cast<int>(std::floor(100.0 * share)); }

/// Ports of one dtype are asked fewer calls: of the bugs that this dtype shows so many must be caught.
constexpr double kLeastKilledOfOneDtype = 0.95;

bool may_survive(const MutantReport& report) {
  const MutantScore score = report.score();
  return !report.dtype.empty() && score.killed + score.equivalent >= kLeastKilledOfOneDtype * score.run;
}

std::vector<std::string> complaints(const MutantReport& report) {
  std::vector<std::string> out = report.findings;
  for (const Trial& trial : report.trials) {
    const Mutant& mutant = *trial.mutant;
    if (report.status(trial) == MutantStatus::survived && !may_survive(report))
      out.push_back(fmt::format("{} survives: {}", mutant.name, mutant.does));
    // Some properties hold for no call of one dtype alone.
    if (report.dtype.empty() && !trial.missed.empty())
      out.push_back(fmt::format("{} is not caught by {}", mutant.name, fmt::join(trial.missed, " ")));
    if (trial.killed() && !mutant.equivalent.empty())
      out.push_back(fmt::format("{} is killed, and its row says that this cannot be", mutant.name));
  }
  for (const Trial* trial : report.missed_by_flagged_files())
    out.push_back(fmt::format("{} passes all {} golden files that name {}", trial->mutant->name,
                              trial->flagged, trial->mutant->bug));
  for (const std::string_view property : report.idle_properties())
    out.push_back(fmt::format("property {} kills no mutant", property));
  return out;
}

}  // namespace

std::string_view name(MutantStatus status) { return kMutantStatuses[static_cast<std::size_t>(status)]; }

double MutantScore::right_share() const {
  return failing == 0 ? 1.0 : static_cast<double>(rightly_named) / static_cast<double>(failing);
}

MutantStatus MutantReport::status(const Trial& trial) const {
  if (!expressible(*trial.mutant)) return MutantStatus::not_expressible;
  if (!dtype.empty() && !trial.mutant->not_in_bfloat16.empty()) return MutantStatus::not_shown;
  if (trial.killed()) return MutantStatus::killed;
  return trial.mutant->equivalent.empty() ? MutantStatus::survived : MutantStatus::equivalent;
}

MutantScore MutantReport::score() const {
  MutantScore out;
  for (const Trial& trial : trials) {
    ++out.rows;
    const MutantStatus outcome = status(trial);
    if (outcome == MutantStatus::not_expressible || outcome == MutantStatus::not_shown) continue;
    ++out.run;
    out.killed += outcome == MutantStatus::killed;
    out.equivalent += outcome == MutantStatus::equivalent;
    out.by_goldens += trial.failing > 0;
    out.by_properties += !trial.kills.empty();
    out.failing += trial.failing;
    out.rightly_named += trial.rightly_named;
  }
  return out;
}

std::vector<std::string_view> MutantReport::idle_properties() const {
  std::vector<std::string_view> out;
  if (!whole || !dtype.empty()) return out;
  for (const Property& property : properties()) {
    const auto kills = [&](const Trial& trial) {
      return std::ranges::find(trial.kills, &property, &PropertyKill::property) != trial.kills.end();
    };
    // Mutants are made of the reference, which computes in float64: it is what this one is there to find.
    if (property.needs != Needs::rounding && std::ranges::none_of(trials, kills))
      out.push_back(property.name);
  }
  return out;
}

std::vector<std::string> MutantReport::flags_without_mutant() const {
  std::vector<std::string> out;
  for (const std::string& flag : flags)
    if (whole && std::ranges::none_of(trials, [&](const Trial& t) { return t.mutant->bug == flag; }))
      out.push_back(flag);
  return out;
}

std::vector<const Trial*> MutantReport::missed_by_flagged_files() const {
  std::vector<const Trial*> out;
  for (const Trial& trial : trials) {
    const auto caught = [&](const Trial& other) {
      return other.mutant->bug == trial.mutant->bug && other.flagged_failing > 0;
    };
    if (dtype.empty() && trial.flagged > 0 && std::ranges::none_of(trials, caught)) out.push_back(&trial);
  }
  return out;
}

int MutantReport::exit_code() const {
  return complaints(*this).empty() && score().run > 0 ? kExitPassed : kExitFailed;
}

std::string first_stage(const Trial& trial) {
  if (trial.failing == 0) return "";
  const auto most =
      std::ranges::max_element(trial.first_named, {}, [](const auto& entry) { return entry.second; });
  return fmt::format("{} {} %", most->first, 100 * trial.rightly_named / trial.failing);
}

std::string killing_properties(const Trial& trial) {
  std::string out;
  for (const PropertyKill& kill : trial.kills) {
    out += (out.empty() ? "" : " ") + std::string(kill.property->name);
    if (!kill.repeats) out += "(*)";
  }
  return out;
}

std::string mutants_text(const MutantReport& report, bool colours) {
  const auto bold = [](std::string text, bool right = false) {
    return Cell{std::move(text), Colour::bold, right};
  };
  std::vector<Row> rows{{bold("mutant"), bold("bug"), bold("component"), bold("outcome"),
                         bold("goldens", true), bold("first named, right"), bold("properties")}};
  bool stateful = false;
  for (const Trial& trial : report.trials) {
    const MutantStatus status = report.status(trial);
    const bool ran = status < MutantStatus::not_shown;
    std::string properties = killing_properties(trial);
    stateful |= properties.find("(*)") != std::string::npos;
    if (status == MutantStatus::not_expressible) properties = trial.mutant->cannot;
    if (status == MutantStatus::not_shown) properties = trial.mutant->not_in_bfloat16;
    rows.push_back({{std::string(trial.mutant->name)},
                    {std::string(trial.mutant->bug)},
                    {component_names(*trial.mutant)},
                    {std::string(name(status)), colour_of(status)},
                    {ran ? fmt::format("{}/{}", trial.failing, trial.judged) : "", Colour::plain, true},
                    {first_stage(trial)},
                    {properties}});
  }
  const MutantScore score = report.score();
  std::string out = fmt::format("moeref {}, mutants{}: {} golden files, {} cases per property, seed {}\n\n",
                                report.moeref, report.dtype.empty() ? "" : " as ports of " + report.dtype,
                                report.files, report.cases, report.seed);
  out += columns(rows, colours);
  if (stateful) out += "(*) takes earlier calls: the case alone does not fail\n";
  out += '\n';
  if (const std::vector<std::string> idle = report.flags_without_mutant(); !idle.empty())
    out += fmt::format("bugs that golden files name without a mutant: {}\n", fmt::join(idle, " "));
  for (const std::string& complaint : complaints(report))
    out += coloured("FAIL", Colour::red, colours) + " " + complaint + "\n";
  out += fmt::format(
      "{} of {} killed by golden files, {} by properties; {} of {} failing verdicts ({:.1f} %) name the "
      "right "
      "tensor first; {:.0f} s\n",
      score.by_goldens, score.run, score.by_properties, score.rightly_named, score.failing,
      std::floor(1000.0 * score.right_share()) / 10.0, report.seconds);
  return out +
         fmt::format("killed {} of {}, {} proven equivalent\n", score.killed, score.run, score.equivalent);
}

std::string mutants_json(const MutantReport& report) {
  using Json = nlohmann::ordered_json;
  const MutantScore score = report.score();
  Json out{{"moeref", report.moeref},
           {"dtype", report.dtype.empty() ? Json() : Json(report.dtype)},
           {"golden_files", report.files},
           {"cases", report.cases},
           {"seed", report.seed},
           {"rows", score.rows},
           {"run", score.run},
           {"killed", score.killed},
           {"equivalent", score.equivalent},
           {"killed_by_goldens", score.by_goldens},
           {"killed_by_properties", score.by_properties},
           {"failing_verdicts", score.failing},
           {"rightly_named", score.rightly_named},
           {"seconds", report.seconds}};
  out["exit_code"] = report.exit_code();
  out["findings"] = complaints(report);
  out["flags_without_mutant"] = report.flags_without_mutant();
  out["mutants"] = Json::array();
  for (const Trial& trial : report.trials) {
    const Mutant& mutant = *trial.mutant;
    Json row{{"name", mutant.name}, {"bug", mutant.bug},     {"source", mutant.source},
             {"does", mutant.does}, {"shows", mutant.shows}, {"status", name(report.status(trial))}};
    for (const Component c : mutant.components) row["components"].push_back(name(c));
    if (!mutant.cannot.empty()) row["cannot"] = mutant.cannot;
    if (!mutant.equivalent.empty()) row["proof"] = mutant.equivalent;
    row["judged"] = trial.judged;
    row["failing"] = trial.failing;
    row["flagged"] = trial.flagged;
    row["flagged_failing"] = trial.flagged_failing;
    row["rightly_named"] = trial.rightly_named;
    row["first_named"] = trial.first_named;
    row["properties"] = Json::array();
    for (const PropertyKill& kill : trial.kills)
      row["properties"].push_back({{"name", kill.property->name},
                                   {"cases", kill.cases},
                                   {"line", kill.line},
                                   {"repeats", kill.repeats},
                                   {"finding", kill.finding}});
    row["seconds"] = trial.seconds;
    out["mutants"].push_back(std::move(row));
  }
  return out.dump(1) + "\n";
}

std::string mutants_markdown(const MutantReport& report) {
  const MutantScore score = report.score();
  return fmt::format("| {} | {} | {} | {} | {} | {} | {} % |\n",
                     report.dtype.empty() ? "every dtype" : report.dtype + " alone", score.run, score.killed,
                     score.equivalent, score.by_goldens, score.by_properties, percent(score.right_share()));
}

}  // namespace moeref
