#include "tools/judging/waivers.hpp"

#include <fmt/core.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

bool matches(const std::string& pattern, const std::string& text) {
  return fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

bool is_link(std::string_view text) { return text.starts_with("https://") || text.starts_with("http://"); }

bool is_date(const std::string& text) {
  int year = 0, month = 0, day = 0, end = 0;
  const bool digits = std::sscanf(text.c_str(), "%4d-%2d-%2d%n", &year, &month, &day, &end) == 3 &&
                      end == 10 && text.size() == 10;
  using namespace std::chrono;
  return digits && year_month_day(std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                  std::chrono::day(static_cast<unsigned>(day)))
                       .ok();
}

std::string text_field(const json& entry, const char* field) {
  const auto it = entry.find(field);
  if (it == entry.end()) return "";
  if (!it->is_string())
    throw InputError(fmt::format("field '{}' is {}: want a text", field, it->dump().substr(0, 80)));
  return it->get<std::string>();
}

Waiver parse_waiver(const json& entry) {
  if (!entry.is_object()) throw InputError("is " + entry.dump().substr(0, 80) + ": want an object");
  for (const auto& [key, value] : entry.items()) {
    constexpr std::array<std::string_view, 5> kFields{"case", "tensor", "issue", "expires", "note"};
    if (std::ranges::find(kFields, key) == kFields.end())
      throw InputError(fmt::format("unknown field '{}': want case, tensor, issue, expires or note", key));
  }
  text_field(entry, "note");
  Waiver waiver{text_field(entry, "case"), text_field(entry, "tensor"), text_field(entry, "issue"),
                text_field(entry, "expires")};
  if (waiver.case_pattern.empty())
    throw InputError("lacks the field 'case': want a case's name or a pattern");
  if (!waiver.expires.empty() && !is_date(waiver.expires))
    throw InputError(fmt::format("field 'expires' is \"{}\": want a date like 2027-01-31", waiver.expires));
  return waiver;
}

std::vector<Waiver> parse_waivers(const std::string& text) {
  json file;
  try {
    file = json::parse(text);
  } catch (const json::parse_error& error) {
    throw InputError(std::string("is no JSON: ") + error.what());
  }
  if (!file.is_object() || file.size() != 1 || !file.contains("waivers") || !file["waivers"].is_array())
    throw InputError("want {\"waivers\": [{\"case\": ..., \"issue\": ...}, ...]}");
  std::vector<Waiver> waivers;
  for (const json& entry : file["waivers"]) {
    try {
      waivers.push_back(parse_waiver(entry));
    } catch (const InputError& error) {
      throw InputError(fmt::format("entry {}: {}", waivers.size() + 1, error.what()));
    }
  }
  return waivers;
}

}  // namespace

Waivers::Waivers(const std::filesystem::path& path) : path_(path) {
  if (path.empty()) return;
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) throw InputError(path.string() + ": cannot be read");
  try {
    entries_ = parse_waivers({std::istreambuf_iterator<char>(file), {}});
  } catch (const InputError& error) {
    throw InputError(path.string() + ": " + error.what());
  }
}

std::string Waivers::objection(const Waiver& waiver, std::string_view today) const {
  if (!is_link(waiver.issue))
    return waiver.issue.empty() ? "has no issue: want a link to the issue that tracks the failure"
                                : "its issue '" + waiver.issue + "' is no link: want https://...";
  if (!waiver.expires.empty() && waiver.expires < today) return "expired on " + waiver.expires;
  return "";
}

void Waivers::apply(Report& report, std::string_view today) const {
  std::vector<bool> used(entries_.size()), met(entries_.size());
  for (CaseReport& one : report.cases) {
    // What each waiver in force covers: everything, or some of the failing tensors.
    std::vector<std::size_t> covering;
    bool whole = false;
    std::vector<bool> covered(one.tensors.size());
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const Waiver& waiver = entries_[i];
      if (!matches(waiver.case_pattern, one.name())) continue;
      met[i] = true;
      if (one.verdict != Verdict::fail || !objection(waiver, today).empty()) continue;
      bool covers = waiver.tensor_pattern.empty();
      whole = whole || covers;
      for (std::size_t t = 0; t < one.tensors.size() && !waiver.tensor_pattern.empty(); ++t) {
        const TensorVerdict& tensor = one.tensors[t].verdict;
        if (tensor.verdict != Verdict::fail || !matches(waiver.tensor_pattern, tensor.tensor)) continue;
        covered[t] = covers = true;
      }
      if (covers) covering.push_back(i);
    }
    bool all = one.first_failure() != nullptr && one.finding.empty();
    for (std::size_t t = 0; t < one.tensors.size(); ++t)
      all = all && (covered[t] || one.tensors[t].verdict.verdict != Verdict::fail);
    for (const std::size_t i : covering) used[i] = true;
    if (covering.empty() || !(whole || all)) continue;
    one.verdict = Verdict::waived;
    one.waiver = entries_[covering.front()].issue;
  }
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    std::string trouble = objection(entries_[i], today);
    if (trouble.empty() && !met[i]) trouble = "matches no case of this run";
    if (trouble.empty() && !used[i]) trouble = "waives nothing: no such failure any more";
    if (!trouble.empty())
      report.findings.push_back(
          fmt::format("{}: entry {} ({}): {}", path_.string(), i + 1, entries_[i].case_pattern, trouble));
  }
}

std::string today_utc() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  gmtime_r(&now, &utc);
  return fmt::format("{:04}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

}  // namespace moeref
