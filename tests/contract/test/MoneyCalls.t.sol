// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {Fixture} from "../src/Fixture.sol";
import {ReentrantToken} from "../src/Tokens.sol";

/// @notice The cases that stand in the trees of all calls that move money.
contract MoneyCallsTest is Fixture {
    uint256 private constant PAYABLE = 2;

    /// @dev Each call with empty arguments; those that take the native coin first.
    function _moneyCalls() private view returns (bytes[13] memory calls) {
        IChannelEscrow.ChannelDescriptor memory channel;
        IChannelEscrow.Capture[] memory none;
        bytes32 zero;
        calls[0] = abi.encodeCall(IChannelEscrow.open, (payee, NATIVE, 0, zero, signer));
        calls[1] = abi.encodeCall(IChannelEscrow.topUp, (channel, 0));
        calls[2] = abi.encodeCall(
            IChannelEscrow.openWithAuthorization, (payee, NATIVE, 0, zero, signer, payer, 0, 0, zero, "")
        );
        calls[3] = abi.encodeCall(IChannelEscrow.openWithPermit, (payee, NATIVE, 0, zero, signer, 0, 0, zero, zero));
        calls[4] = abi.encodeCall(IChannelEscrow.topUpWithAuthorization, (channel, 0, zero, 0, 0, zero, ""));
        calls[5] = abi.encodeCall(IChannelEscrow.topUpWithPermit, (channel, 0, 0, 0, zero, zero));
        calls[6] = abi.encodeCall(IChannelEscrow.settle, (channel, 0, 0, ""));
        calls[7] = abi.encodeCall(IChannelEscrow.close, (channel, 0, 0, ""));
        calls[8] = abi.encodeCall(IChannelEscrow.settleWithAuthorization, (channel, 0, 0, 0, 0, "", ""));
        calls[9] = abi.encodeCall(IChannelEscrow.closeWithAuthorization, (channel, 0, 0, 0, 0, "", ""));
        calls[10] = abi.encodeCall(IChannelEscrow.settleBatch, (none));
        calls[11] = abi.encodeCall(IChannelEscrow.closeBatch, (none));
        calls[12] = abi.encodeCall(IChannelEscrow.withdraw, (channel));
    }

    function test_no_money_call_is_entered_from_within_another() public {
        bytes[13] memory calls = _moneyCalls();
        for (uint256 i = 0; i < calls.length; ++i) {
            ReentrantToken token = new ReentrantToken();
            _fund(address(token), payer);
            token.arm(address(escrow), calls[i]);
            _opened(address(token));
            vm.assertEq(token.called(), true, "called back");
            vm.assertEq(token.succeeded(), false, "entered again");
            bytes32 reason = bytes32(bytes4(keccak256("ReentrancyGuardReentrantCall()")));
            vm.assertEq(bytes32(token.result()), reason, "reason");
        }
    }

    /// @dev The compiler's own check gives no reason, so an empty one says that it came before all others.
    function test_only_open_and_top_up_take_the_native_coin() public {
        bytes[13] memory calls = _moneyCalls();
        for (uint256 i = PAYABLE; i < calls.length; ++i) {
            vm.prank(payer);
            (bool success, bytes memory reason) = address(escrow).call{value: 1}(calls[i]);
            vm.assertEq(success, false, "took the native coin");
            vm.assertEq(reason, "", "reason");
        }
    }
}
