// The protocol holds in every interleaving, and the explorer would see it if it did not.
#include "tests/simulation/step_model.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/simulation/explorer.h"

namespace muond::simulation {
namespace {

// Explores the scenarios whose description passes `wanted`; the count is printed, since
// "exhaustive" is the claim.
template <typename Wanted>
void ExpectEveryInterleavingIsGood(const StepOptions& options, Wanted wanted) {
  const StepModel model(options);
  uint64_t scenarios = 0, states = 0, transitions = 0, largest = 0;
  for (const StepModel::State& initial : model.Initial()) {
    const std::string description = model.Describe(initial);
    if (!wanted(description)) continue;
    const Exploration result = Explorer<StepModel>(model).Run(initial);
    std::string trace;
    for (const std::string& action : result.trace) trace += "\n  " + action;
    ASSERT_EQ(result.error, "") << description << trace;
    ASSERT_GT(result.final_states, 0u) << description;
    ++scenarios;
    states += result.states;
    transitions += result.transitions;
    largest = std::max(largest, result.states);
  }
  ASSERT_GT(scenarios, 0u);
  std::printf("%llu scenarios, %llu states (largest %llu), %llu transitions\n",
              static_cast<unsigned long long>(scenarios), static_cast<unsigned long long>(states),
              static_cast<unsigned long long>(largest),
              static_cast<unsigned long long>(transitions));
}

bool All(const std::string&) { return true; }

// The shortest counterexample over all scenarios, printed.
Exploration ShortestCounterexample(const StepOptions& options) {
  const StepModel model(options);
  Exploration shortest;
  std::string scenario;
  for (const StepModel::State& initial : model.Initial()) {
    Exploration result = Explorer<StepModel>(model).Run(initial);
    if (result.error.empty()) continue;
    if (shortest.error.empty() || result.trace.size() < shortest.trace.size()) {
      shortest = std::move(result);
      scenario = model.Describe(initial);
    }
  }
  std::printf("%s\n%s\n", scenario.c_str(), shortest.error.c_str());
  for (const std::string& action : shortest.trace) std::printf("  %s\n", action.c_str());
  return shortest;
}

TEST(StepModelTest, OneRankTwoCrashesEveryScenario) {
  ExpectEveryInterleavingIsGood({.ranks = 1}, All);
}

TEST(StepModelTest, OneRankTwoCrashesWithASinglePlace) {
  ExpectEveryInterleavingIsGood({.ranks = 1, .places = 1}, All);
}

TEST(StepModelTest, OneRankTwoCrashesWithTwoSpareSlotsAndOneBucket) {
  ExpectEveryInterleavingIsGood({.ranks = 1, .slots = 4, .buckets = 1}, All);
}

TEST(StepModelTest, TwoRanksOneCrashEveryScenarioWithASinglePlace) {
  ExpectEveryInterleavingIsGood({.places = 1, .crashes = 1, .fine = false}, All);
}

TEST(StepModelTest, TwoRanksTwoCrashes) {
  const std::vector<std::string> chosen = {
      "plain, edits of items (mask 3)", "NaN in step 2, edits of items (mask 1)",
      "NaN in step 1, no gradient of item 0 in step 2",
      "plain, no gradient of item 1 in step 3, edits of items (mask 2)"};
  ExpectEveryInterleavingIsGood({.fine = false}, [&](const std::string& description) {
    return std::find(chosen.begin(), chosen.end(), description) != chosen.end();
  });
}

TEST(StepModelTest, TwoRanksTwoCrashesInTheSmallestSteps) {
  ExpectEveryInterleavingIsGood({.places = 1, .buckets = 1}, [](const std::string& description) {
    return description == "NaN in step 2, edits of items (mask 3)";
  });
}

TEST(StepModelTest, FindsThatARankMustWaitForTaken) {
  const Exploration found = ShortestCounterexample({.ranks = 1, .planted = Planted::kNoTaken});
  EXPECT_NE(found.error.find("gradient"), std::string::npos) << found.error;
}

TEST(StepModelTest, FindsThatALateCopyOutOverwritesWhatTheRankAlreadyHas) {
  const Exploration found = ShortestCounterexample({.ranks = 1, .planted = Planted::kNoReadyCheck});
  EXPECT_NE(found.error.find("rank 0 holds"), std::string::npos) << found.error;
}

TEST(StepModelTest, FindsThatAFlipBeforeTheVerdictAppliesAVoidStep) {
  const Exploration found =
      ShortestCounterexample({.ranks = 1, .planted = Planted::kFlipBeforeVerdict});
  EXPECT_NE(found.error.find("is VOID, and changed item"), std::string::npos) << found.error;
}

TEST(StepModelTest, FindsThatRunningBeforeCopyingOutDeadlocksWithOnePlace) {
  const Exploration found =
      ShortestCounterexample({.ranks = 1, .places = 1, .planted = Planted::kRunBeforeCopyOut});
  EXPECT_NE(found.error.find("deadlock"), std::string::npos) << found.error;
}

TEST(StepModelTest, FindsThatARecoveryWhichSetsNoCellsOfTheDeadStopsTheJob) {
  const Exploration found =
      ShortestCounterexample({.ranks = 1, .planted = Planted::kRecoveryIsSilent});
  EXPECT_NE(found.error.find("deadlock"), std::string::npos) << found.error;
}

}  // namespace
}  // namespace muond::simulation
