#include "server/observe/option_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace muond {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

struct Values {
  std::string color = "red";
  bool loud = false;
  int64_t count = 3;
};

OptionTable TableOf(Values* v) {
  return OptionTable(
      {
          {"color", "NAME", "What colour.",
           [v](const std::string& t) {
             v->color = t;
             return t == "none" ? absl::InvalidArgumentError("a colour is expected")
                                : absl::OkStatus();
           },
           [v] { return v->color; }},
          {"loud", "", "Whether loud.",
           [v](const std::string& t) {
             const auto b = ParseBool(t);
             if (b.ok()) v->loud = *b;
             return b.status();
           },
           [v] { return std::string(v->loud ? "true" : "false"); }},
          {"item_count", "COUNT", "How many.",
           [v](const std::string& t) {
             const auto n = ParseInteger(t, 1, 9);
             if (n.ok()) v->count = *n;
             return n.status();
           },
           [v] { return std::to_string(v->count); }},
          {"secret", "X", "", [](const std::string&) { return absl::OkStatus(); },
           [] { return std::string("s"); }, true},
      },
      "MUOND_", /*shared=*/true);
}

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(OptionTableTest, EverySourceSetsTheSameOptions) {
  Values v;
  OptionTable table = TableOf(&v);
  ASSERT_TRUE(table.SetFromYaml("color: blue\nitem_count: 4\n", "f.yaml").ok());
  EXPECT_EQ(v.color, "blue");
  ASSERT_TRUE(table.SetFromEnvironment({{"MUOND_COLOR", "green"}, {"PATH", "/bin"}}).ok());
  EXPECT_EQ(v.color, "green");
  ASSERT_TRUE(table.SetFromFlags({"--loud", "--item-count", "5", "--color=pink"}).ok());
  EXPECT_EQ(v.color, "pink");
  EXPECT_TRUE(v.loud);
  EXPECT_EQ(v.count, 5);
  EXPECT_THAT(table.PrintYaml(), HasSubstr("color: \"pink\"  # flag --color"));
  EXPECT_THAT(table.AsFlags(),
              UnorderedElementsAre("--color=pink", "--loud=true", "--item-count=5", "--secret=s"));
}

TEST(OptionTableTest, UnknownNamesAreErrorsWithTheNearestKnownOne) {
  Values v;
  OptionTable table = TableOf(&v);
  EXPECT_THAT(MessageOf(table.SetFromYaml("loud: true\ncolour: blue\n", "f.yaml")),
              ::testing::AllOf(HasSubstr("f.yaml:2"), HasSubstr("colour"),
                               HasSubstr("known one is color")));
  EXPECT_THAT(MessageOf(table.SetFromFlags({"--item-cuont=3"})), HasSubstr("--item-count"));
  EXPECT_THAT(MessageOf(table.SetFromEnvironment({{"MUOND_COLOUR", "blue"}})),
              HasSubstr("MUOND_COLOR"));
  EXPECT_TRUE(table.SetFromEnvironment({{"MUOND_ENDPOINT", "unix:/x"}}).ok());  // the client's
}

TEST(OptionTableTest, ABadValueNamesItsSourceAndWhatIsExpected) {
  Values v;
  OptionTable table = TableOf(&v);
  EXPECT_THAT(MessageOf(table.SetFromYaml("item_count: 12", "f.yaml")),
              ::testing::AllOf(HasSubstr("f.yaml:1"), HasSubstr("12"), HasSubstr("from 1 to 9")));
  EXPECT_THAT(MessageOf(table.SetFromEnvironment({{"MUOND_LOUD", "very"}})),
              ::testing::AllOf(HasSubstr("MUOND_LOUD"), HasSubstr("true or false")));
  EXPECT_EQ(v.count, 3);
}

TEST(OptionTableTest, FilesThatAreNoFlatTableAreRefused) {
  Values v;
  OptionTable table = TableOf(&v);
  EXPECT_FALSE(table.SetFromYaml("- a\n- b\n", "f").ok());
  EXPECT_FALSE(table.SetFromYaml("color: {a: b}\n", "f").ok());
  EXPECT_FALSE(table.SetFromYaml("color: [unclosed\n", "f").ok());
  EXPECT_THAT(MessageOf(table.SetFromYaml("color: a\ncolor: b\n", "f")), HasSubstr("twice"));
  EXPECT_TRUE(table.SetFromYaml("", "f").ok());
  EXPECT_TRUE(table.SetFromYaml("# nothing\n", "f").ok());
}

TEST(OptionTableTest, HiddenOptionsAreForFlagsOnly) {
  Values v;
  OptionTable table = TableOf(&v);
  EXPECT_FALSE(table.SetFromYaml("secret: 1", "f").ok());
  EXPECT_TRUE(table.SetFromFlags({"--secret=1"}).ok());
  EXPECT_EQ(table.Help().find("secret"), std::string::npos);
  EXPECT_EQ(table.PrintYaml().find("secret"), std::string::npos);
}

TEST(OptionTableTest, StrayArgumentsAndMissingValuesAreErrors) {
  Values v;
  OptionTable table = TableOf(&v);
  EXPECT_THAT(MessageOf(table.SetFromFlags({"run"})), HasSubstr("\"run\""));
  EXPECT_THAT(MessageOf(table.SetFromFlags({"--color"})), HasSubstr("needs a value"));
}

TEST(ParseBytesTest, TakesUnitsAndRefusesTheRest) {
  EXPECT_EQ(*ParseBytes("123"), 123u);
  EXPECT_EQ(*ParseBytes("64KiB"), 65536u);
  EXPECT_EQ(*ParseBytes("1.5GiB"), 1610612736u);
  for (const char* bad : {"", "-1", "1.5", "12kb", "GiB", "9999999TiB", "nanMiB"}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace muond
