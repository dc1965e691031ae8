// A step over two daemons holds in every interleaving, and the explorer would see it if it did not.
#include "tests/simulation/nodes_model.h"

#include <cstdio>
#include <string>

#include "gtest/gtest.h"
#include "tests/simulation/explorer.h"

namespace muond::simulation {
namespace {

Exploration Explore(const NodesOptions& options) {
  const NodesModel model(options);
  Exploration result = Explorer<NodesModel>(model).Run(model.Initial());
  std::printf("%llu states, %llu transitions, %llu ends\n",
              static_cast<unsigned long long>(result.states),
              static_cast<unsigned long long>(result.transitions),
              static_cast<unsigned long long>(result.final_states));
  if (!result.error.empty()) {
    std::printf("%s\n", result.error.c_str());
    for (const std::string& action : result.trace) std::printf("  %s\n", action.c_str());
  }
  return result;
}

void ExpectEveryInterleavingIsGood(const NodesOptions& options) {
  const Exploration result = Explore(options);
  EXPECT_EQ(result.error, "");
  EXPECT_GT(result.final_states, 0u);
}

void ExpectFinds(const NodesOptions& options, const std::string& error) {
  const Exploration result = Explore(options);
  EXPECT_NE(result.error.find(error), std::string::npos) << result.error;
}

TEST(NodesModelTest, TwoCrashesOfEitherStepper) { ExpectEveryInterleavingIsGood({}); }

TEST(NodesModelTest, TwoCrashesAndANaNOnTheMember) { ExpectEveryInterleavingIsGood({.nan = true}); }

TEST(NodesModelTest, TwoCrashesAndARankThatDies) {
  ExpectEveryInterleavingIsGood({.rank_dies = true, .disturbances = 0});
}

TEST(NodesModelTest, FindsThatTheChiefMustJournalBeforeItTells) {
  ExpectFinds({.rank_dies = true, .disturbances = 0, .planted = PlantedInNodes::kTellBeforeJournal},
              "was said to be");
}

TEST(NodesModelTest, FindsThatAMemberMustJournalBeforeItFlips) {
  ExpectFinds({.disturbances = 0, .planted = PlantedInNodes::kFlipBeforeJournal},
              "measured a gradient");
}

TEST(NodesModelTest, FindsThatAFlipBeforeTheVerdictAppliesAVoidStep) {
  ExpectFinds({.nan = true, .planted = PlantedInNodes::kFlipBeforeVerdict},
              "node 0 holds 1 of item 0, not the first value");
}

TEST(NodesModelTest, FindsThatAVerdictNeedsEveryNodesVote) {
  ExpectFinds({.disturbances = 0, .planted = PlantedInNodes::kVerdictWithoutMembers},
              "the rank of node 1 holds");
}

TEST(NodesModelTest, FindsThatALostVoteMustBeRepeated) {
  ExpectFinds({.planted = PlantedInNodes::kVoteOnce}, "deadlock");
}

TEST(NodesModelTest, FindsThatAPutIsRepeatedOverANewLink) {
  ExpectFinds({.disturbances = 0, .planted = PlantedInNodes::kForgetOnReconnect}, "deadlock");
}

TEST(NodesModelTest, FindsThatANewLinkMustShutOutThePutsOfTheDead) {
  ExpectFinds({.disturbances = 0, .planted = PlantedInNodes::kLatePutsLand}, "holds");
}

}  // namespace
}  // namespace muond::simulation
