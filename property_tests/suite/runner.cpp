#include "moeref/runner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <set>

#include "moeref/error.hpp"
#include "property_tests/suite/buckets.hpp"
#include "property_tests/suite/draw_case.hpp"
#include "property_tests/suite/rapidcheck_listener.hpp"
#include "property_tests/suite/sampling.hpp"
#include "property_tests/suite/thresholds.hpp"

namespace moeref {
namespace {

std::vector<Component> components_to_run(const Property& property, const RunOptions& options) {
  if (options.components.empty()) return property.components;
  std::vector<Component> out;
  for (const Component c : property.components)
    if (std::ranges::find(options.components, c) != options.components.end()) out.push_back(c);
  return out;
}

using Shrinkable = rc::Shrinkable<Descriptor>;

/// Descriptors for one property. RapidCheck gives the bits and walks the shrinks; sizes do not grow with its
/// own size parameter, since edges must come from the first case on.
rc::Gen<Descriptor> descriptors(const Property& property, std::vector<Component> components,
                                const RunOptions& options) {
  const auto turn = std::make_shared<std::size_t>(0);
  return [&property, components = std::move(components), range = options.sizes,
          products = options.declared.float32_products, turn](const rc::Random& random, int) -> Shrinkable {
    rc::Random stream(random);
    const std::uint64_t chosen = stream.next();
    const Component component =
        components[(range.scale == Scale::small ? chosen : (*turn)++) % components.size()];
    Descriptor drawn = draw_case(property, component, stream.next(), range);
    drawn.products = products;
    return rc::shrinkable::shrinkRecur(drawn, [&property](const Descriptor& d) {
      return rc::seq::fromContainer(
          shrinks(d, [&property](Descriptor& candidate) { prepare(property, candidate); }));
    });
  };
}

void settle(RunReport& report, const RunOptions& options) {
  const int judged = report.passed + report.discarded;
  // A few discarded cases of a port that declined the others say nothing about the property.
  const bool declined = report.passed == 0 && report.not_supported > report.discarded;
  if (judged == 0 || declined)
    report.status = RunStatus::not_supported;
  else if (report.discarded > options.most_discarded * judged)
    report.status = RunStatus::vacuous;
}

std::chrono::steady_clock::time_point deadline_after(double seconds) {
  return std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                                std::chrono::duration<double>(seconds));
}

/// A failure that passes on the same case is none of the case's: a race, uninitialised memory, state between
/// calls.
bool repeats(const Property& property, Implementation& implementation, const Descriptor& descriptor) {
  for (int again = 0; again < 3; ++again)
    if (examine(property, implementation, descriptor).kind != Outcome::Kind::failed) return false;
  return true;
}

}  // namespace

std::string_view name(RunStatus status) {
  switch (status) {
    case RunStatus::passed:
      return "PASS";
    case RunStatus::not_supported:
      return "NOT_SUPPORTED";
    case RunStatus::vacuous:
      return "VACUOUS";
    case RunStatus::flaky:
      return "FLAKY";
    case RunStatus::failed:
      return "FAIL";
  }
  return "";
}

double Sampling::seen(double share) const { return 1.0 - std::pow(1.0 - share, static_cast<double>(tokens)); }

std::string repeat_line(const RunReport& report) {
  if (!report.smallest) return "";
  return fmt::format("--property {} --repeat '{}'", report.property->name, to_line(*report.smallest));
}

RunReport run_property(const Property& property, Implementation& implementation, const RunOptions& options) {
  RunReport report;
  report.property = &property;
  const std::vector<Component> components = components_to_run(property, options);
  const bool undeclared = !declares(options.declared, property.needs);
  if (components.empty() || undeclared) {
    report.status = RunStatus::not_supported;
    report.reasons[std::string(undeclared ? lack(property.needs) : "none of the components is asked for")] =
        0;
    return report;
  }
  const auto start = std::chrono::steady_clock::now();
  BucketObserver observed(implementation);
  const rc::Gen<Descriptor> generator = descriptors(property, components, options);
  std::chrono::steady_clock::time_point deadline;

  const auto one_case = [&] {
    const Descriptor descriptor = *generator;
    const bool shrinking = report.smallest.has_value();
    if (shrinking && std::chrono::steady_clock::now() > deadline) return;  // no smaller case is looked for
    const Outcome outcome = examine(property, observed, descriptor);
    const std::set<std::string_view> met = observed.take();
    if (!shrinking) add(report.sampling, take_sampling());
    switch (outcome.kind) {
      case Outcome::Kind::failed:
        // RapidCheck accepts exactly the shrinks that fail, so the last failure is the smallest case.
        if (!shrinking) deadline = deadline_after(options.shrink_seconds);
        report.smallest = descriptor;
        report.finding = outcome.finding;
        RC_FAIL(to_string(outcome.finding));
        break;
      case Outcome::Kind::passed:
        if (shrinking) return;
        ++report.passed;
        report.buckets.try_emplace(descriptor.component);  // the component ran, even where no bucket was met
        for (const std::string_view bucket : met) ++report.buckets[descriptor.component][std::string(bucket)];
        return;
      case Outcome::Kind::not_supported:
      case Outcome::Kind::discarded: {
        const bool discarded = outcome.kind == Outcome::Kind::discarded;
        if (!shrinking) {
          ++(discarded ? report.discarded : report.not_supported);
          ++report.reasons[outcome.reason];
          if (!discarded) ++report.declined[outcome.reason];
          for (const std::string_view bucket : met)
            ++report.buckets[descriptor.component][std::string(bucket)];
        }
        // Counted as a case here, so that the number of cases stays what was asked for; a shrink must not be
        // taken.
        return;
      }
    }
  };
  rc::detail::TestParams params;
  params.seed = options.seed;
  params.maxSuccess = options.cases;
  take_sampling();  // of nothing before
  const std::string id = std::string(property.name);
  const rc::detail::TestResult result = run_rapidcheck(id, one_case, params);

  settle(report, options);
  if (report.smallest) {
    report.status =
        repeats(property, implementation, *report.smallest) ? RunStatus::failed : RunStatus::flaky;
    if (report.status == RunStatus::failed)
      report.thresholds =
          thresholds(property, implementation, *report.smallest, deadline_after(options.shrink_seconds));
  } else if (!result.is<rc::detail::SuccessResult>())
    throw std::logic_error("RapidCheck could not run property " + id);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

Outcome repeat_case(const Property& property, Implementation& implementation, std::string_view line) {
  Descriptor descriptor = parse_descriptor(line);
  const Descriptor given = descriptor;
  if (std::ranges::find(property.components, descriptor.component) == property.components.end())
    throw InputError("property '" + std::string(property.name) + "' is not one of component " +
                     std::string(name(descriptor.component)));
  prepare(property, descriptor);
  if (descriptor != given)
    throw InputError("'" + std::string(line) + "' is no case of property '" + std::string(property.name) +
                     "': the nearest is '" + to_line(descriptor) + "'");
  return examine(property, implementation, descriptor);
}

std::vector<std::string> unmet_buckets(const std::vector<RunReport>& reports) {
  std::map<Component, std::map<std::string, int>> seen;
  std::set<Component> ran;
  for (const RunReport& report : reports) {
    for (const auto& [component, counts] : report.buckets) {
      ran.insert(component);
      for (const auto& [bucket, count] : counts) seen[component][bucket] += count;
    }
  }
  std::vector<std::string> out;
  for (const Bucket& bucket : buckets())
    for (const Component component : bucket.components)
      if (ran.contains(component) && !seen[component].contains(std::string(bucket.name)))
        out.push_back(fmt::format("{}: no case with {}", name(component), bucket.name));
  return out;
}

}  // namespace moeref
