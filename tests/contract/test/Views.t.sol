// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {Fixture} from "../src/Fixture.sol";

/// @notice Cases of views.tree, and what other software relies on: selectors, ids, digests, the shipped code.
contract ViewsTest is Fixture {
    function testFuzz_channel_id_is_the_drafts(IChannelEscrow.ChannelDescriptor memory channel) public view {
        bytes32 channelId = escrow.computeChannelId(
            channel.payer, channel.payee, channel.token, channel.salt, channel.authorizedSigner
        );
        vm.assertEq(channelId, _id(channel), "channel id");
    }

    function test_selectors_of_the_draft_are_kept() public pure {
        bytes32 open = bytes32(bytes4(keccak256("open(address,address,uint128,bytes32,address)")));
        vm.assertEq(bytes32(IChannelEscrow.open.selector), open, "open");
        bytes32 withAuthorization = bytes32(
            bytes4(
                keccak256(
                    "openWithAuthorization(address,address,uint128,bytes32,address,address,uint256,uint256,bytes32,bytes)"
                )
            )
        );
        vm.assertEq(bytes32(IChannelEscrow.openWithAuthorization.selector), withAuthorization, "with authorization");
    }

    function test_views_of_an_unknown_channel_are_zero() public view {
        IChannelEscrow.ChannelState memory state = escrow.getChannel("unknown");
        vm.assertEq(state.deposit, 0, "deposit");
        vm.assertEq(state.finalized, false, "finalized");
        vm.assertEq(escrow.isNonceUsed("unknown", 0), false, "nonce");
    }

    function test_many_channels_are_read_in_order() public {
        bytes32[] memory ids = new bytes32[](3);
        ids[0] = _id(_settled(address(usdc), 7));
        ids[1] = "unknown";
        ids[2] = _id(_opened(NATIVE));
        IChannelEscrow.ChannelState[] memory states = escrow.getChannels(ids);
        vm.assertEq(states.length, 3, "length");
        vm.assertEq(states[0].settled, 7, "first");
        vm.assertEq(states[1].deposit, 0, "second");
        vm.assertEq(states[2].deposit, DEPOSIT, "third");
        vm.assertEq(escrow.getChannels(new bytes32[](0)).length, 0, "none");
    }

    function test_state_fits_one_slot() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        _open(channel, uint128(MAX));
        uint128 all = uint128(MAX);
        vm.warp(type(uint56).max);
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        _call(payee, _closeData(channel, all, all));
        _checkState(channel, MAX, MAX, type(uint56).max, true);
    }

    function testFuzz_voucher_digest_is_typed_data(bytes32 channelId, uint128 amount, uint64 chainId) public {
        vm.assume(chainId != 0);
        vm.chainId(chainId);
        bytes32 expected = _digest(_escrowDomain(), _voucherContent(channelId, amount));
        vm.assertEq(escrow.getVoucherDigest(channelId, amount), expected, "digest");
        vm.assertEq(escrow.domainSeparator(), _escrowDomain(), "domain");
    }

    /// @dev Computed by two independent libraries outside this project.
    function test_golden_vector() public {
        address known = 0x5FbDB2315678afecb367f032d93F642f64180aa3;
        vm.etch(known, address(escrow).code);
        vm.chainId(31337);
        bytes32 domain = IChannelEscrow(known).domainSeparator();
        vm.assertEq(domain, 0x66d1eef00d89253b97b26104ca270d8450c1362c28171b147c198d4a6d62242d, "domain");
        bytes32 channelId = 0x2222222222222222222222222222222222222222222222222222222222222222;
        bytes32 digest = IChannelEscrow(known).getVoucherDigest(channelId, 1000001);
        vm.assertEq(digest, 0xef68a475124b55b32b7bab32847a57fa545f323ea8c96a54f92a78feb891daf8, "digest");
        uint256 key = 0x1111111111111111111111111111111111111111111111111111111111111111;
        bytes memory signature =
            hex"e72091056fe9737b8a31abe2adf6e6648493d3db98e5dda9c4094eb1a14e233e6b0320e7444e4fca584ef0e20a57911c6e4531b66e20bf4b37f3be30504842961b";
        vm.assertEq(_sign(key, digest), signature, "signature");
    }

    function test_shipped_code_is_what_is_tested() public view {
        _checkShipped("../../microwallet/escrow/contract/ChannelEscrow.json", "ChannelEscrow.sol:ChannelEscrow");
        _checkShipped("../../microwallet/devnet/contract/TestUSDC.json", "TestUSDC.sol:TestUSDC");
    }

    function _checkShipped(string memory file, string memory artifact) private view {
        string memory json = vm.readFile(file);
        vm.assertEq(vm.parseJsonBytes(json, ".bytecode"), vm.getCode(artifact), "creation code");
        vm.assertEq(vm.parseJsonBytes(json, ".deployedBytecode"), vm.getDeployedCode(artifact), "deployed code");
    }

    function test_code_is_the_same_on_every_chain() public {
        vm.chainId(84532);
        address elsewhere = _deploy("ChannelEscrow.sol:ChannelEscrow");
        vm.assertEq(elsewhere.code, address(escrow).code, "escrow");
        vm.assertEq(_deploy("TestUSDC.sol:TestUSDC").code, address(usdc).code, "token");
    }

    function test_create2_addresses_are_right() public view {
        _checkAddress("../../microwallet/escrow/contract/ChannelEscrow.json");
        _checkAddress("../../microwallet/devnet/contract/TestUSDC.json");
    }

    function _checkAddress(string memory file) private view {
        string memory json = vm.readFile(file);
        address factory = 0x4e59b44847b379578588920cA78FbF26c0B4956C;
        bytes32 codeHash = keccak256(vm.parseJsonBytes(json, ".bytecode"));
        bytes32 hash = keccak256(abi.encodePacked(hex"ff", factory, bytes32(0), codeHash));
        vm.assertEq(vm.parseJsonAddress(json, ".create2.address"), address(uint160(uint256(hash))), "address");
    }
}
