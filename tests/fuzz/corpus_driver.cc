// Runs a libFuzzer target without libFuzzer: every file of the corpus folders, then `runs` seeded
// mutations of them. Usage: target RUNS FOLDER...   The seed is printed; MUOND_SEED repeats it.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;

void Mutate(Input& input, std::mt19937_64& random) {
  const int edits = 1 + static_cast<int>(random() % 4);
  for (int edit = 0; edit < edits; ++edit) {
    const size_t at = input.empty() ? 0 : random() % input.size();
    switch (random() % 4) {
      case 0:
        if (!input.empty()) input[at] ^= static_cast<uint8_t>(1u << (random() % 8));
        break;
      case 1:
        if (!input.empty()) input[at] = static_cast<uint8_t>(random());
        break;
      case 2:
        input.insert(input.begin() + static_cast<std::ptrdiff_t>(at),
                     static_cast<uint8_t>(random()));
        break;
      case 3:
        if (!input.empty()) input.resize(at);
        break;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s RUNS FOLDER...\n", argv[0]);
    return 2;
  }
  const int64_t runs = std::strtoll(argv[1], nullptr, 10);
  std::vector<Input> corpus;
  for (int i = 2; i < argc; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      std::ifstream file(entry.path(), std::ios::binary);
      corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: the corpus is empty\n", argv[0]);
    return 1;
  }
  const char* chosen = std::getenv("MUOND_SEED");
  const uint64_t seed =
      chosen != nullptr ? std::strtoull(chosen, nullptr, 10) : std::random_device{}();
  std::printf("seed %llu, %zu corpus files, %lld mutations\n",
              static_cast<unsigned long long>(seed), corpus.size(), static_cast<long long>(runs));
  std::mt19937_64 random(seed);
  for (const Input& input : corpus) LLVMFuzzerTestOneInput(input.data(), input.size());
  for (int64_t run = 0; run < runs; ++run) {
    Input input = corpus[random() % corpus.size()];
    Mutate(input, random);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  return 0;
}
