#include "proto/carrier/link_probe.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace muond {
namespace {

constexpr size_t kSmallPuts = 21;
constexpr int64_t kUnderWay = 4;
constexpr double kFar = 10;

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

absl::StatusOr<LinkProbe> LinkProbe::Start(ShardCarrier* carrier, const Options& options,
                                           int64_t now_ns) {
  if (options.region_bytes == 0 || options.duration_ns <= 0) {
    return absl::InvalidArgumentError(absl::StrFormat("a probe of %d bytes for %d ns",
                                                      options.region_bytes, options.duration_ns));
  }
  LinkProbe probe(carrier, options);
  probe.put_ns_ = now_ns;
  if (auto status = probe.PutBytes(1); !status.ok()) return status;
  return probe;
}

absl::Status LinkProbe::PutBytes(uint64_t size_bytes) {
  const auto status =
      carrier_->Put({options_.peer, options_.region, 0, bytes_.data(), size_bytes, options_.token});
  if (status.ok()) ++under_way_;
  return status;
}

absl::StatusOr<std::optional<LinkFigures>> LinkProbe::On(const CarrierEvent& event,
                                                         int64_t now_ns) {
  if (event.kind != CarrierEventKind::kPutDone || event.token != options_.token)
    return absl::InvalidArgumentError("an event of something else");
  if (!event.status.ok()) return event.status;
  --under_way_;
  if (latencies_ns_.size() < kSmallPuts) {
    latencies_ns_.push_back(now_ns - put_ns_);
    put_ns_ = now_ns;
    if (latencies_ns_.size() < kSmallPuts) {
      if (auto status = PutBytes(1); !status.ok()) return status;
      return std::nullopt;
    }
  } else {
    landed_bytes_ += options_.region_bytes;
  }
  const int64_t passed_ns = now_ns - put_ns_;
  while (passed_ns < options_.duration_ns && under_way_ < kUnderWay) {
    if (auto status = PutBytes(options_.region_bytes); !status.ok()) return status;
  }
  if (under_way_ > 0) return std::nullopt;
  std::vector<double> latencies;
  for (const int64_t ns : latencies_ns_) latencies.push_back(static_cast<double>(ns) * 1e-9);
  return LinkFigures{static_cast<double>(landed_bytes_) * 1e9 / static_cast<double>(passed_ns),
                     Median(std::move(latencies))};
}

LinkVerdict JudgeLink(const LinkFigures& link, std::span<const LinkFigures> others) {
  if (others.empty()) {
    return {false, absl::StrFormat("%.3g MB/s and %.3g us a put; no link to compare with",
                                   link.bytes_per_second * 1e-6, link.put_seconds * 1e6)};
  }
  std::vector<double> bandwidths, puts;
  for (const LinkFigures& other : others) {
    bandwidths.push_back(other.bytes_per_second);
    puts.push_back(other.put_seconds);
  }
  const double bandwidth = Median(std::move(bandwidths));
  const double put = Median(std::move(puts));
  LinkVerdict verdict;
  verdict.slow = link.bytes_per_second * kFar < bandwidth || link.put_seconds > put * kFar;
  verdict.reason = absl::StrFormat(
      "%.3g MB/s and %.3g us a put, where %d links of its kind have %.3g MB/s and %.3g us",
      link.bytes_per_second * 1e-6, link.put_seconds * 1e6, others.size(), bandwidth * 1e-6,
      put * 1e6);
  return verdict;
}

}  // namespace muond
